package io.github.mimomobile.runtime.files

import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.golden
import io.github.mimomobile.runtime.text.TokenizerException
import java.io.File
import org.junit.Assert.assertTrue

/** What readers of a format accept. */
internal fun goodOnes(format: String): List<ByteArray> = golden("formats")
    .filter { it.text("format") == format && it.boolean("kotlin") }
    .map { it.text("text").encodeToByteArray() }

/** Lets [read] read what becomes of [contents]; what it throws must be its [own]. */
internal fun hold(contents: List<ByteArray>, count: Int, own: (Throwable) -> Boolean, read: (ByteArray) -> Unit) {
    var refused = 0
    for (seed in 0 until count) {
        val content = Mutations(seed).change(contents[seed % contents.size])
        val started = System.nanoTime()
        try {
            read(content)
        } catch (error: Throwable) {
            if (!own(error)) throw AssertionError("seed $seed: $error of ${String(content).take(2_000)}", error)
            refused++
        }
        val seconds = (System.nanoTime() - started) / 1e9
        assertTrue("seed $seed took $seconds s", seconds < 5)
    }
    assertTrue("$refused of $count refused", refused in count / 4 until count)
}

/** The same of a [file]. */
internal fun holdFile(file: File, contents: List<ByteArray>, count: Int, read: (File) -> Unit) {
    val own = { error: Throwable -> error is MimoException.ModelLoad || error is TokenizerException }
    hold(contents, count, own) { file.writeBytes(it).also { read(file) } }
}
