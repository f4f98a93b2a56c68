package io.github.mimomobile.runtime.onnx

import ai.onnxruntime.OrtSession
import io.github.mimomobile.runtime.Progress
import io.github.mimomobile.runtime.Verification
import io.github.mimomobile.runtime.files.sha256
import java.io.File
import java.io.IOException
import java.io.RandomAccessFile
import java.nio.channels.OverlappingFileLockException
import java.security.MessageDigest

/**
 * Models as this CPU's kernels want them, kept on disk and mapped into memory.
 *
 * ONNX Runtime rearranges ("prepacks") int4 weights at every load, into memory that Android cannot take back. Here the
 * first load saves the rearranged model, and every load maps it. An entry holds for one version of ONNX Runtime, one
 * CPU and one state of the model's files; the others of a model are removed. An entry is read whole for its SHA-256 when
 * it is made, and again when its files' sizes or times of change are others.
 *
 * @param folder Where entries are.
 * @param version Of ONNX Runtime.
 * @param how How much of an entry is checked before it is used.
 * @param leastBytes Smaller models load in no time, and their copies are not missed.
 * @param progress Told how many bytes of how many were hashed; may throw to give up.
 */
internal class Prepacked(
    private val folder: File,
    private val version: String,
    private val how: Verification,
    private val leastBytes: Long,
    private val progress: Progress = { _, _ -> },
) {
    /** Whether a model with so many [bytes] of weights is worth keeping. */
    fun wants(bytes: Long): Boolean = bytes >= leastBytes

    /** The model of a whole entry; null when there is none. */
    fun find(model: File): File? = place(model).let { entry -> File(entry, MODEL).takeIf { isWhole(entry) } }

    /**
     * A new entry, in place of all others of this model; null when the storage has no room or fails, another engine is
     * making one, or it would be wrong. Killed half way it leaves nothing that would be used.
     *
     * @param save Writes the rearranged model, [MODEL] and [DATA], into a folder, or throws an [IOException].
     */
    fun make(model: File, bytes: Long, save: (File) -> Unit): File? {
        val entry = place(model)
        val parent = entry.parentFile
        if (File(entry, REFUSED).isFile) return null
        try {
            if (!parent.isDirectory && !parent.mkdirs()) return null
            RandomAccessFile(File(parent, ".lock"), "rw").use { file ->
                val lock = file.channel.tryLock() ?: return null
                lock.use {
                    parent.listFiles()?.filter { it.isDirectory }?.forEach { it.deleteRecursively() }
                    if (parent.usableSpace < GROWTH * bytes) return null
                    val partial = File(parent, "partial").apply { mkdir() }
                    try {
                        save(partial)
                        if (!isAligned(File(partial, MODEL))) {
                            refuse(model)
                            return null
                        }
                        val made = listOf(MODEL, DATA).map { File(partial, it) }
                        made.forEach { file -> RandomAccessFile(file, "rw").use { it.fd.sync() } }
                        val sums = made.zip(hashes(made)) { file, sum -> "$sum ${file.length()} ${file.name}\n" }
                        File(partial, SUMS).writeText(sums.joinToString(""))
                        File(partial, VERIFIED).writeText(timesOf(made))
                        File(parent, NAME).writeText(model.canonicalPath)
                        if (!partial.renameTo(entry)) return null
                    } finally {
                        partial.deleteRecursively()
                    }
                }
            }
        } catch (_: IOException) {
            return null
        } catch (_: OverlappingFileLockException) {
            return null
        }
        return File(entry, MODEL)
    }

    /** Whether an entry's numbers have been found right. */
    fun isTested(model: File): Boolean = File(place(model), TESTED).isFile

    /** An entry's numbers are right. */
    fun approve(model: File) = mark(model, TESTED)

    /** Removes an entry that cannot be loaded. */
    fun discard(model: File) {
        place(model).deleteRecursively()
    }

    /** Removes an entry that gives wrong numbers: with this state of things none is made again. */
    fun refuse(model: File) {
        discard(model)
        mark(model, REFUSED)
    }

    private fun mark(model: File, name: String) {
        try {
            File(place(model), name).apply { parentFile.mkdirs() }.createNewFile()
        } catch (_: IOException) { // it will be tested once more
        }
    }

    private fun isWhole(entry: File): Boolean = try {
        val files = listOf(MODEL, DATA).map { File(entry, it) }
        val sums = File(entry, SUMS).readLines().map { it.split(" ") } // none of them after a loss of power
        val expected = files.map { listOf("${it.length()}", it.name) }
        sums.map { it.drop(1) } == expected && (how == Verification.SIZE || isVerified(entry, files, sums.map { it[0] }))
    } catch (_: IOException) {
        false
    }

    /** Whether the bytes are those that were written, or were when the files were changed last. */
    private fun isVerified(entry: File, files: List<File>, sums: List<String>): Boolean {
        val mark = File(entry, VERIFIED)
        val state = timesOf(files)
        if (mark.isFile && mark.readText() == state) return true
        return (hashes(files) == sums).also { if (it) mark.writeText(state) }
    }

    private fun timesOf(files: List<File>) = files.joinToString("\n") { "${it.length()} ${it.lastModified()}" }

    private fun hashes(files: List<File>): List<String> {
        val total = files.sumOf { it.length() }
        var done = 0L
        return files.map { file -> sha256(file) { progress(done + it, total) }.also { done += file.length() } }
    }

    /** The graph is hashed; data of some gigabytes are known by size and time of change. */
    private fun place(model: File): File {
        val name = "${model.parentFile.name}-${model.name.removeSuffix(".onnx")}-${digest(model.canonicalPath)}"
        return File(File(folder, name), stateOf(model, version))
    }

    companion object {
        const val MODEL: String = "model.onnx"
        const val DATA: String = "model.onnx.data"
        private const val SUMS = "sums.txt"
        private const val VERIFIED = "verified"
        private const val TESTED = "tested"
        private const val REFUSED = "refused"
        private const val NAME = "model.txt"

        /** As in the Python library: there 2.2 was measured. An entry holds the original weights, too. */
        const val GROWTH: Double = 2.4
        const val LEAST_BYTES: Long = 64_000_000

        /** The model that a folder of the cache keeps entries of; null when it is no such folder. */
        fun modelOf(folder: File): File? = try {
            File(folder, NAME).takeIf { it.isFile }?.let { File(it.readText()) }
        } catch (_: IOException) {
            null
        }

        /** Has a session save what it makes of a model. */
        fun saveInto(folder: File, options: OrtSession.SessionOptions) {
            options.setOptimizedModelFilePath(File(folder, MODEL).path)
            options.addConfigEntry("session.save_external_prepacked_constant_initializers", "1")
            options.addConfigEntry("session.optimized_model_external_initializers_file_name", DATA)
            options.addConfigEntry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
        }

        /** A name for this CPU, the files of a model as they are, and [more]. */
        fun stateOf(model: File, more: String): String {
            val data = File(model.parentFile, DATA)
            return digest(listOf(more, cpu(), sha256(model), data.length(), data.lastModified()).joinToString("\n"))
        }

        /** What the choice of kernels depends on. */
        private fun cpu(): String {
            val lines = try {
                File("/proc/cpuinfo").readLines()
            } catch (_: IOException) {
                emptyList()
            }
            val keys = listOf("flags", "Features", "model name", "CPU part")
            val found = lines.filter { line -> keys.any(line::startsWith) }.toSortedSet()
            return (listOf(System.getProperty("os.arch")) + found).joinToString("\n")
        }

        /** A short name for a text. */
        fun digest(text: String): String {
            val bytes = MessageDigest.getInstance("SHA-256").digest(text.encodeToByteArray())
            return bytes.take(8).joinToString("") { "%02x".format(it) }
        }
    }
}
