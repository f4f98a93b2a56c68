package io.github.mimomobile.runtime.files

import java.io.File
import java.io.IOException
import java.nio.ByteBuffer
import java.nio.file.Files
import java.nio.file.LinkOption.NOFOLLOW_LINKS
import java.nio.file.attribute.FileTime
import java.security.MessageDigest
import kotlin.math.abs

/**
 * What tells a file as it is from others, and from what it may be made later: its path, inode, size and times. The time
 * of the last change of status is among them, which no program can set. A path that names an open file of this process
 * by its number tells nothing, as the next file gets that number; the path behind it does.
 *
 * @param nowMs The time, as [System.currentTimeMillis] tells it.
 * @return Null where nothing is sure: the file system tells no times, or the file was changed so short ago that another
 *   change could bear the same ones.
 */
internal fun identityOf(file: File, nowMs: Long = System.currentTimeMillis()): String? = try {
    val path = file.absoluteFile.toPath()
    val name = if (NUMBERED.any(path::startsWith)) Files.readSymbolicLink(path) else path
    val state = Files.readAttributes(path, "unix:ino,size,lastModifiedTime,ctime")
    val times = listOf("lastModifiedTime", "ctime").map { (state.getValue(it) as FileTime).toMillis() }
    val isSure = times.all { it > 0 && abs(nowMs - it) > TICK_MS }
    if (isSure) "$name ${state.toSortedMap()}" else null
} catch (_: IOException) {
    null
} catch (_: UnsupportedOperationException) { // no Unix
    null
} catch (_: IllegalArgumentException) { // one that tells less
    null
}

/** SHA-256 of large files, remembered in a [folder] by their [identityOf]: a file is read again when it has changed. */
internal class KeptSums(private val folder: File) {
    /** The sum of a file with this identity; null when none is kept. */
    fun recall(identity: String): String? = try {
        val kept = place(identity)
        if (Files.isRegularFile(kept.toPath(), NOFOLLOW_LINKS)) {
            untrustedText(kept, MOST_BYTES).trim().takeIf(SHA256::matches)
        } else {
            null
        }
    } catch (_: IOException) {
        null
    }

    /** Remembers a sum. */
    fun keep(identity: String, sha256: String) {
        try {
            folder.mkdirs()
            writeWhole(place(identity)) { it.write(ByteBuffer.wrap("$sha256\n".encodeToByteArray())) }
        } catch (_: IOException) { // the file is read once more
        }
    }

    private fun place(identity: String) = File(folder, "checksum-${sha256(identity).take(DIGITS)}.sha256")

    private companion object {
        val SHA256 = Regex("[0-9a-f]{64}")
        const val DIGITS = 32
        const val MOST_BYTES = 100L
    }
}

/** The SHA-256 of a text, in hexadecimal. */
internal fun sha256(text: String): String =
    hexadecimal(MessageDigest.getInstance("SHA-256").digest(text.encodeToByteArray()))

/** Where a process finds its open files by their numbers. */
private val NUMBERED = listOf("/proc", "/dev/fd").map { File(it).toPath() }

/** FAT, on memory cards, stamps changes by a clock that ticks each two seconds; others tick more often. */
private const val TICK_MS = 2000
