package io.github.mimomobile.demo.models

import android.content.Context
import android.content.Intent
import android.net.Uri
import android.os.ParcelFileDescriptor
import android.provider.OpenableColumns
import io.github.mimomobile.demo.Problem
import io.github.mimomobile.demo.ProblemException
import io.github.mimomobile.demo.R
import java.io.Closeable
import java.io.File
import java.io.FileNotFoundException
import java.io.FileOutputStream
import java.io.IOException
import org.json.JSONException
import org.json.JSONObject

private const val GGUF = ".gguf"
private const val MTP_GGUF = "-mtp.gguf"

/** The file with the MTP layer of a GGUF file, where there is one: beside it, as the engine looks for it. */
fun mtpBeside(file: File) = File(file.parentFile, file.name.removeSuffix(GGUF) + MTP_GGUF)

/**
 * A model in one GGUF file, of which no manifest tells anything.
 *
 * @property file Where it is on this phone; null when it is a [document].
 * @property document What another app keeps, which is read where it is.
 */
data class LoneModel(val name: String, val sizeBytes: Long?, val file: File? = null, val document: Uri? = null)

/** A file that can be read by [file] until it is closed. */
class OpenedModel(val file: File, private val descriptor: ParcelFileDescriptor? = null) : Closeable {
    override fun close() = descriptor?.close() ?: Unit
}

/** GGUF files alone, of the file picker or pushed with adb: each in a folder of its own, with the file or what names it. */
class LoneModels(private val context: Context) {
    private val resolver = context.contentResolver

    /** The GGUF file of a [folder] without a manifest, or that is [folder] itself; null when there is none. */
    fun read(folder: File): LoneModel? {
        if (folder.isFile) return folder.takeIf(::isTrunk)?.let(::alone)
        val note = File(folder, NOTE)
        val file = folder.listFiles().orEmpty().singleOrNull(::isTrunk)?.let(::alone)
        if (!note.isFile) return file
        return try {
            val found = JSONObject(note.readText())
            val size = found.optLong("size_bytes", -1).takeIf { it >= 0 }
            val name = found.getString("name")
            file?.copy(name = name) ?: LoneModel(name, size, document = Uri.parse(found.getString("uri")))
        } catch (error: JSONException) {
            throw IOException("$note: ${error.message}", error)
        }
    }

    /** Not the MTP layer of a file beside it, which is loaded with that. */
    private fun isTrunk(file: File): Boolean {
        val name = file.name
        if (!name.endsWith(GGUF)) return false
        return !name.endsWith(MTP_GGUF) || !File(file.parentFile, name.removeSuffix(MTP_GGUF) + GGUF).exists()
    }

    private fun alone(file: File) = LoneModel(file.name.removeSuffix(GGUF), file.length(), file)

    /**
     * Adds a document that the user picked to the models in [own]; its folder comes back.
     *
     * It is read where it is if the app may do so after its next start, too, and can do so by a path, as llama.cpp must.
     * Else it is copied.
     *
     * @param named Told its name and size, as soon as they are known.
     */
    suspend fun add(document: Uri, own: File, named: (LoneModel) -> Unit, progress: Bytes): File {
        val model = asking(document.toString()) { describe(document) }
        named(model)
        val target = File(own, model.name.replace(Regex("[^A-Za-z0-9_.-]+"), "-").trimStart('.').ifEmpty { "gguf" })
        if (target.exists()) {
            throw ProblemException(Problem.Kind.STORAGE, "${target.name} is here already; delete it first")
        }
        val partial = File(target.path + PARTIAL)
        try {
            if (!partial.isDirectory && !partial.mkdirs()) throw IOException("$partial: cannot be made")
            val note = JSONObject().put("name", model.name).putOpt("size_bytes", model.sizeBytes)
            if (staysReadable(model)) note.put("uri", document.toString()) else {
                copy(model, File(partial, target.name + GGUF), progress)
                release(document)
            }
            write(File(partial, NOTE), note.toString())
            sync(partial)
            if (!partial.renameTo(target)) throw IOException("$partial: cannot be renamed to ${target.name}")
            sync(own)
        } catch (error: Throwable) {
            partial.deleteRecursively()
            release(document)
            throw error
        }
        return target
    }

    /**
     * Opens what an entry has: its folder, its file, or a document, which must stay open while it is loaded.
     *
     * @throws ProblemException The document was removed, or this app may not read it any more.
     */
    fun open(entry: ModelEntry): OpenedModel {
        val model = entry.lone ?: return OpenedModel(entry.folder)
        val document = model.document ?: return OpenedModel(model.file ?: entry.folder)
        return try {
            asking(model.name) { descriptor(document) }
        } catch (error: IOException) {
            val reason = context.getString(R.string.document_gone, model.name)
            throw ProblemException(Problem.Kind.STORAGE, "$reason (${error.message})")
        }
    }

    /** Gives the right to read a document back: each app may have some hundreds only. */
    fun release(document: Uri) = try {
        resolver.releasePersistableUriPermission(document, Intent.FLAG_GRANT_READ_URI_PERMISSION)
    } catch (_: SecurityException) { // there was none
    }

    private fun describe(document: Uri): LoneModel {
        val columns = arrayOf(OpenableColumns.DISPLAY_NAME, OpenableColumns.SIZE)
        val cursor = resolver.query(document, columns, null, null) ?: throw IOException("$document: cannot be asked for")
        return cursor.use {
            if (!it.moveToFirst()) throw FileNotFoundException("$document: not there any more")
            val name = it.getString(0)?.takeIf(String::isNotBlank) ?: document.lastPathSegment.orEmpty()
            val size = if (it.isNull(1)) null else it.getLong(1).takeIf { size -> size > 0 }
            LoneModel(name.removeSuffix(GGUF), size, document = document)
        }
    }

    private fun staysReadable(model: LoneModel): Boolean {
        val granted = resolver.persistedUriPermissions.any { it.uri == model.document && it.isReadPermission }
        if (!granted) return false
        val opened = try {
            asking(model.name) { descriptor(checkNotNull(model.document)) }
        } catch (_: IOException) {
            return false // what can only be read as a stream is copied
        }
        // The file of another app cannot always be opened again by a path, even if its descriptor can be read.
        return opened.use {
            try {
                it.file.isFile && it.file.inputStream().use { input -> input.read() >= 0 }
            } catch (_: IOException) {
                false
            }
        }
    }

    private fun descriptor(document: Uri): OpenedModel {
        val descriptor = resolver.openFileDescriptor(document, "r") ?: throw FileNotFoundException("$document: no data")
        return OpenedModel(File("/proc/self/fd/${descriptor.fd}"), descriptor)
    }

    private suspend fun copy(model: LoneModel, file: File, progress: Bytes) {
        val needed = (model.sizeBytes ?: 0) + SPARE_BYTES
        val free = checkNotNull(file.parentFile).usableSpace
        if (free < needed) {
            throw ProblemException(Problem.Kind.SPACE, "%.2f GB needed, %.2f GB free".format(needed / 1e9, free / 1e9))
        }
        val input = asking(model.name) { resolver.openInputStream(checkNotNull(model.document)) }
            ?: throw FileNotFoundException("${model.name}: the provider gives no data")
        input.use {
            FileOutputStream(file).use { output ->
                digest(it, output) { done -> progress(done, model.sizeBytes ?: 0) }
                output.fd.sync()
            }
        }
        val expected = model.sizeBytes ?: return
        if (file.length() != expected) {
            throw ProblemException(Problem.Kind.DAMAGED, "${model.name} has ${file.length()} bytes, $expected expected")
        }
    }

    private companion object {
        const val NOTE = "document.json"
    }
}

/** Providers are other apps and may fail in any way. */
fun <T> asking(what: String, ask: () -> T): T = try {
    ask()
} catch (error: RuntimeException) {
    throw IOException("$what: the provider failed (${error.message})", error)
}
