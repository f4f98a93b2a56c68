package io.github.mimomobile.demo.models

import android.util.Log
import io.github.mimomobile.demo.Problem
import io.github.mimomobile.demo.ProblemException
import io.github.mimomobile.runtime.ModelFile
import io.github.mimomobile.runtime.ModelManifest
import java.io.File
import java.io.FileOutputStream
import java.io.IOException
import java.io.InputStream
import java.nio.channels.FileChannel
import java.nio.file.StandardOpenOption
import java.security.MessageDigest
import kotlin.coroutines.coroutineContext
import kotlinx.coroutines.ensureActive

/** Told how many bytes of how many are done. */
typealias Bytes = (doneBytes: Long, totalBytes: Long) -> Unit

private const val BUFFER_BYTES = 1 shl 20

/** Left free on the disk: Android itself suffers below. */
const val SPARE_BYTES = 64L shl 20

/** In a partial folder: some of its files exist nowhere else, so that it must stay until it is whole. */
private const val MOVING = ".moving"

const val PARTIAL = ".partial"

/** Whether a partial folder is to be kept, as sources were deleted for it. */
fun isMoving(partial: File) = File(partial, MOVING).exists()

/**
 * Copies a model into [target], every file verified on the way; the folder gets its name when it is whole.
 *
 * With [move] each source is deleted once its copy is verified, so that no second whole copy ever exists. What was
 * moved before an error or a cancellation stays in the partial folder, and another run goes on from there.
 */
class ModelCopy(private val source: ModelSource, private val target: File, private val move: Boolean = false) {
    private val partial = File(target.path + PARTIAL)

    /**
     * @throws ProblemException A file is damaged, the disk too full, or the model here already.
     * @throws IOException Reading or writing failed.
     */
    suspend fun run(manifest: ModelManifest, progress: Bytes) {
        if (target.exists()) {
            throw ProblemException(Problem.Kind.STORAGE, "${target.name} is here already; delete it first")
        }
        try {
            if (!partial.isDirectory && !partial.mkdirs()) throw IOException("$partial: cannot be made")
            checkSpace(manifest)
            var done = 0L
            for (part in manifest.files) {
                bring(part) { progress(done + it, manifest.sizeBytes) }
                done += part.sizeBytes
            }
            write(File(partial, ModelManifest.NAME), manifest.text)
            sync(partial)
            if (!partial.renameTo(target)) throw IOException("$partial: cannot be renamed to ${target.name}")
        } catch (error: Throwable) {
            if (!isMoving(partial)) partial.deleteRecursively()
            throw error
        }
        sync(checkNotNull(target.parentFile))
        if (move) source.delete(ModelManifest.NAME)
        File(target, MOVING).delete() // last: without it the partial folder would count as rubbish
    }

    private suspend fun bring(part: ModelFile, progress: (Long) -> Unit) {
        val file = File(partial, part.path)
        val moved = file.isFile && file.length() == part.sizeBytes // before this move was interrupted
        if (moved && file.inputStream().use { digest(it, null, progress) } == part.sha256) return
        file.parentFile?.mkdirs()
        val found = FileOutputStream(file).use { output ->
            source.open(part.path).use { digest(it, output, progress) }.also { output.fd.sync() }
        }
        if (file.length() != part.sizeBytes) {
            throw damaged("${part.path} has ${file.length()} bytes, ${part.sizeBytes} expected")
        }
        check(part, found)
        if (move) {
            if (!isMoving(partial)) write(File(partial, MOVING), "")
            generateSequence(file.parentFile) { it.parentFile }.takeWhile { it != target.parentFile }.forEach(::sync)
            sync(checkNotNull(target.parentFile))
            source.delete(part.path)
        }
    }

    private fun check(part: ModelFile, found: String) {
        if (found != part.sha256) throw damaged("${part.path}: SHA-256 $found, ${part.sha256} expected")
    }

    private fun checkSpace(manifest: ModelManifest) {
        val sizes = manifest.files.filter { File(partial, it.path).length() != it.sizeBytes }.map { it.sizeBytes }
        val needed = (if (move) sizes.maxOrNull() ?: 0 else sizes.sum()) + SPARE_BYTES
        val free = partial.usableSpace
        if (free < needed) {
            throw ProblemException(Problem.Kind.SPACE, "%.2f GB needed, %.2f GB free".format(needed / 1e9, free / 1e9))
        }
    }
}

/**
 * Reads every file of a model in [folder].
 *
 * @throws ProblemException One is missing or damaged.
 */
suspend fun verifyModel(folder: File, manifest: ModelManifest, progress: Bytes) {
    var done = 0L
    for (part in manifest.files) {
        val file = File(folder, part.path)
        if (!file.isFile) throw damaged("${part.path} is missing")
        val found = file.inputStream().use { input -> digest(input, null) { progress(done + it, manifest.sizeBytes) } }
        if (found != part.sha256) throw damaged("${part.path}: SHA-256 $found, ${part.sha256} expected")
        done += part.sizeBytes
    }
}

fun write(file: File, text: String) = FileOutputStream(file).use {
    it.write(text.encodeToByteArray())
    it.fd.sync()
}

/** The names in a folder survive a loss of power from now on; a file's own sync does not promise that. */
fun sync(folder: File) = try {
    FileChannel.open(folder.toPath(), StandardOpenOption.READ).use { it.force(true) }
} catch (error: IOException) {
    Log.w("mimo", "$folder: this file system syncs no folders", error)
    Unit
}

private fun damaged(what: String) = ProblemException(Problem.Kind.DAMAGED, what)

/** Reads [input] to its end, writing it to [output]; returns the SHA-256 in hexadecimal. */
suspend fun digest(input: InputStream, output: FileOutputStream?, progress: (Long) -> Unit): String {
    val digest = MessageDigest.getInstance("SHA-256")
    val buffer = ByteArray(BUFFER_BYTES)
    var done = 0L
    while (true) {
        coroutineContext.ensureActive()
        val count = input.read(buffer)
        if (count < 0) break
        digest.update(buffer, 0, count)
        output?.write(buffer, 0, count)
        done += count
        progress(done)
    }
    return digest.digest().joinToString("") { "%02x".format(it) }
}
