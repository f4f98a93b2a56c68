package io.github.mimomobile.runtime.files

import java.io.Closeable
import java.io.File
import java.io.IOException
import java.nio.file.Files

/** A file that is open, by its number: as an app gets another app's document. */
internal class OpenFile(file: File) : Closeable {
    private val input = file.inputStream()

    val path: File = checkNotNull(File("/proc/self/fd").listFiles()).single { link ->
        try {
            Files.readSymbolicLink(link.toPath()) == file.absoluteFile.toPath()
        } catch (_: IOException) { // closed meanwhile
            false
        }
    }

    override fun close() = input.close()
}
