package io.github.mimomobile.runtime.files

import java.io.File
import java.io.FileInputStream
import java.io.IOException

/** The largest file of text or JSON that is read; MiMo-7B's tokenizer.json has 7 MB. */
internal const val MOST_TEXT_BYTES: Long = 32_000_000

/** The largest JSON file of ours; a manifest with all recipes has 20 KB. */
internal const val MOST_DOCUMENT_BYTES: Long = 4_000_000

/**
 * A file that others wrote, open for reading. What is no regular file is refused without waiting for it, and so is one of
 * more than [most] bytes: its content could fill an app's memory.
 *
 * @throws IOException It is none, or cannot be read.
 */
internal fun untrustedInput(file: File, most: Long = MOST_TEXT_BYTES): FileInputStream {
    if (!file.isFile) throw IOException(if (file.exists()) "no regular file" else "missing")
    if (file.length() > most) throw IOException("${file.length()} bytes found, at most $most expected")
    return file.inputStream()
}

/**
 * The text in such a file.
 *
 * @throws IOException It is none, or cannot be read.
 */
internal fun untrustedText(file: File, most: Long = MOST_DOCUMENT_BYTES): String =
    untrustedInput(file, most).use { it.readBytes().decodeToString() }
