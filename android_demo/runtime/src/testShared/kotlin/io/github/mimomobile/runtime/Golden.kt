package io.github.mimomobile.runtime

import io.github.mimomobile.runtime.files.JsonReader
import java.io.File

/** One case of a golden file, which tools/golden.py wrote. */
internal class Case(private val values: Map<*, *>) {
    val names: Set<String> get() = values.keys.map { it as String }.toSet()

    fun text(name: String): String = values[name] as String

    fun int(name: String): Int = (values[name] as Double).toInt()

    fun double(name: String): Double = values[name] as Double

    fun boolean(name: String): Boolean = values[name] as Boolean

    fun texts(name: String): List<String> = list(name).map { it as String }

    fun ints(name: String): List<Int> = list(name).map { (it as Double).toInt() }

    fun doubles(name: String): List<Double> = list(name).map { it as Double }

    fun list(name: String): List<*> = values[name] as List<*>

    fun optionalInt(name: String): Int? = (values[name] as Double?)?.toInt()

    fun case(name: String): Case = Case(values[name] as Map<*, *>)

    fun messages(): List<Message> = list("messages").map {
        val (role, content) = (it as List<*>).map { part -> part as String }
        Message(Role.valueOf(role.uppercase()), content)
    }

    override fun toString(): String = values.toString().take(300)
}

internal fun golden(name: String): List<Case> {
    val file = File(System.getProperty("mimo.golden"), "$name.json")
    return (file.inputStream().use { JsonReader(it).readValue() } as List<*>).map { Case(it as Map<*, *>) }
}

/** MiMo-nano in int4, as `mimo quantize` writes it. */
internal val nano: File by lazy {
    File(System.getProperty("mimo.model")).also {
        check(File(it, "manifest.json").isFile) { "$it: run `make quantize` first" }
    }
}

/** The same with pieces for an NPU that were not compiled, as tools/npu_fixture.py writes it. */
internal val nanoNpu: File by lazy { npuFixture("") }

/** The same with pieces for prompts alone. */
internal val nanoPrompts: File by lazy { npuFixture("-prompts") }

private fun npuFixture(kind: String): File {
    val folder = System.getProperty("mimo.npu")
    check(folder != null && File("$folder$kind", "manifest.json").isFile) {
        "-Dmimo.npu=$folder: run `python -m tools.npu_fixture out/mimo-nano FOLDER` first, and give FOLDER"
    }
    return File("$folder$kind")
}

/** The same model with numbers that are too large for float16, as tools/hot_fixture.py writes it. */
internal val nanoHot: File by lazy {
    val folder = System.getProperty("mimo.hot")
    check(folder != null && File(folder, "manifest.json").isFile) {
        "-Dmimo.hot=$folder: run `python -m tools.hot_fixture FOLDER` first, and give FOLDER"
    }
    File(folder)
}

/** The folder of nano's ONNX files. */
internal val nanoOnnx: File by lazy { nano.listFiles()!!.single { it.name.endsWith("-onnx") } }

/** A folder whose manifest has the sizes of its files as they are now, and not those that are gone. */
internal fun resized(root: File): File {
    val manifest = File(root, "manifest.json")
    val part = Regex("""\{\s*"path": "([^"]+)",\s*"size_bytes": \d+,\s*"sha256": "\w+"\s*\},?\s*""")
    val parts = part.replace(manifest.readText()) { match ->
        val file = File(root, match.groupValues[1])
        val size = Regex("""size_bytes": \d+""")
        if (file.isFile) match.value.replace(size, "size_bytes\": ${file.length()}") else ""
    }
    manifest.writeText(parts.replace(Regex(""",\s*\]"""), "]"))
    return root
}
