package io.github.mimomobile.runtime.files

import java.io.File
import java.io.IOException
import java.nio.channels.FileChannel
import java.nio.file.Files
import java.nio.file.Path
import java.nio.file.StandardCopyOption.ATOMIC_MOVE
import java.nio.file.StandardCopyOption.REPLACE_EXISTING
import java.nio.file.StandardOpenOption.WRITE

/**
 * Writes a file that its owner alone may read and that appears whole or not at all; an earlier one is replaced.
 *
 * A process that is killed meanwhile leaves the earlier file, or none, and a hidden one beside it, which the next call for
 * the same file removes. Whoever writes holds a lock on theirs, so that nobody takes it for such a one.
 *
 * @throws IOException The disk is full, most likely.
 */
internal fun writeWhole(file: File, write: (FileChannel) -> Unit) {
    // By the folder's own path: Android has several for each, and locks do not keep a process from itself.
    val target = file.absoluteFile.toPath().let { it.parent.toRealPath().resolve(it.fileName) }
    removeAbandoned(target)
    Unfinished.beside(target).use { made ->
        write(made.channel)
        made.channel.force(true)
        Files.move(made.path, target, ATOMIC_MOVE, REPLACE_EXISTING)
    }
}

/** A file under way, with a lock on it where the file system has locks; it is removed in the end, unless it was moved. */
private class Unfinished(val path: Path, val channel: FileChannel) : AutoCloseable {
    override fun close() {
        synchronized(underWay) {
            Files.deleteIfExists(path)
            channel.close() // and the lock with it
            underWay.remove(path)
        }
    }

    companion object {
        fun beside(target: Path): Unfinished {
            while (true) begin(target)?.let { return it }
        }

        /** Null when another process took it for abandoned before it was locked. */
        private fun begin(target: Path): Unfinished? = synchronized(underWay) {
            val path = Files.createTempFile(target.parent, ".${target.fileName}-", ".tmp") // its owner alone may read it
            underWay.add(path)
            val made = Unfinished(path, FileChannel.open(path, WRITE))
            if (isOurs(made.channel) != false && Files.exists(path)) return made
            made.close()
            null
        }
    }
}

/** Removes what processes that ended left of [target]. */
private fun removeAbandoned(target: Path) {
    val name = Regex(Regex.escape(".${target.fileName}-") + "[0-9]+\\.tmp")
    val found = target.parent.toFile().listFiles { each -> each.isFile && name.matches(each.name) }.orEmpty()
    for (path in found.map { it.toPath() }) {
        synchronized(underWay) {
            if (path in underWay) return@synchronized // to open and to close it would end its lock
            try {
                FileChannel.open(path, WRITE).use { if (isOurs(it) == true) Files.deleteIfExists(path) }
            } catch (_: IOException) { // another process was faster, or it is another user's
            }
        }
    }
}

/** Whether a lock on a file could be had; null where the file system has none. */
private fun isOurs(channel: FileChannel): Boolean? = try {
    channel.tryLock() != null
} catch (_: IOException) {
    null
}

/** What this process writes: its locks do not keep its own threads out. */
private val underWay = HashSet<Path>()
