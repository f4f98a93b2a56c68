package io.github.mimomobile.runtime.files

import io.github.mimomobile.runtime.MimoException
import java.io.File
import java.io.IOException
import java.io.InputStream

/**
 * A JSON format of ours that carries its version; docs/formats.md specifies them all. The Python library reads them with
 * the same rules: fields that nobody asks for are passed over, since newer writers add some.
 *
 * @property name The field `name_version` says the version; a file without it has version 1.
 * @property version The newest that is read.
 */
internal class FileFormat(private val name: String, private val version: Long) {
    /**
     * What [build] makes of a file.
     *
     * @param advice What to do about a damaged file.
     * @throws MimoException.ModelLoad The file is damaged, or of a version that is not known here.
     */
    fun <T> read(file: File, advice: String, build: (Map<*, *>) -> T): T = try {
        untrustedInput(file, MOST_DOCUMENT_BYTES).use { read(it, "$file", advice, build) }
    } catch (error: IOException) {
        throw MimoException.ModelLoad("$file: cannot be read (${error.message}); $advice", error)
    }

    /** The same of an [input], which messages call [what]. */
    fun <T> read(input: InputStream, what: String, advice: String, build: (Map<*, *>) -> T): T = try {
        val document = JsonReader(input).readDocument() as? Map<*, *> ?: throw JsonException("an object expected")
        val field = "${name}_version"
        val found = if (field in document) document.long(field, 1) else 1
        if (found > version) {
            throw MimoException.ModelLoad(
                "$what: a newer MiMo Mobile wrote it: $field is $found, $version is the newest known here;" +
                    " update the app",
            )
        }
        build(document)
    } catch (error: JsonException) {
        throw MimoException.ModelLoad("$what: not what mimo writes: ${error.message}; $advice", error)
    }
}

/** A value of parsed JSON, which must be a text. */
internal fun Map<*, *>.text(name: String): String = this[name] as? String ?: expected(name, "a string", this[name])

/** A value of parsed JSON, which must be true or false. */
internal fun Map<*, *>.flag(name: String): Boolean =
    this[name] as? Boolean ?: expected(name, "true or false", this[name])

/** A value of parsed JSON, which must be a whole number from [least] to [most]. */
internal fun Map<*, *>.long(name: String, least: Long = 0, most: Long = MOST_LONG): Long =
    whole(name, this[name], least, most)

/** A value of parsed JSON, which must be a whole number from [least] to the largest [Int]. */
internal fun Map<*, *>.int(name: String, least: Int = 0): Int = whole(name, this[name], least.toLong(), MOST_INT).toInt()

/** A value of parsed JSON, which must be a list of whole numbers from [least] on. */
internal fun Map<*, *>.ints(name: String, least: Int = 0): IntArray =
    values(name).map { whole(name, it, least.toLong(), MOST_INT).toInt() }.toIntArray()

/** A value of parsed JSON, which must be a list of numbers. */
internal fun Map<*, *>.doubles(name: String): DoubleArray =
    values(name).map { it as? Double ?: expected(name, "a number", it) }.toDoubleArray()

/** A value of parsed JSON, which must be a number from [least] on. */
internal fun Map<*, *>.number(name: String, least: Double): Double =
    (this[name] as? Double)?.takeIf { it >= least } ?: expected(name, "a number from $least on", this[name])

/** A value of parsed JSON, which must be a list of objects. */
internal fun Map<*, *>.objects(name: String): List<Map<*, *>> =
    values(name).map { it as? Map<*, *> ?: expected(name, "an object", it) }

/** A value of parsed JSON, which must be a list. */
internal fun Map<*, *>.values(name: String): List<*> = this[name] as? List<*> ?: expected(name, "a list", this[name])

/** A value of parsed JSON, which must be a path that is relative and stays inside its folder. */
internal fun Map<*, *>.path(name: String): String {
    val path = text(name)
    if (path.split('/').any { it.isEmpty() || it == "." || it == ".." } || '\\' in path || '\u0000' in path) {
        throw JsonException("$name: $path leads out of the folder")
    }
    return path
}

private fun whole(name: String, value: Any?, least: Long, most: Long): Long =
    (value as? Double)?.takeIf { it >= least && it <= most && it == Math.rint(it) }?.toLong()
        ?: expected(name, "a whole number from $least to $most", value)

private fun expected(name: String, expected: String, found: Any?): Nothing =
    throw JsonException("$name: $expected expected, ${found?.toString()?.take(40) ?: "nothing"} found")

/** Up to here a double keeps integers exactly. */
private const val MOST_LONG = (1L shl 53) - 1
private const val MOST_INT = Int.MAX_VALUE.toLong()
