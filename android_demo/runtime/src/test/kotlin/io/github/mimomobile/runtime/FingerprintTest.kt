package io.github.mimomobile.runtime

import io.github.mimomobile.runtime.decode.Backend
import io.github.mimomobile.runtime.decode.MtpHead
import io.github.mimomobile.runtime.decode.StateArray
import io.github.mimomobile.runtime.files.KeptSums
import io.github.mimomobile.runtime.files.ModelSource
import io.github.mimomobile.runtime.files.identityOf
import io.github.mimomobile.runtime.files.sha256
import io.github.mimomobile.runtime.text.TokenizerFile
import java.io.File
import java.io.RandomAccessFile
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.Job
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.launch
import kotlinx.coroutines.runBlocking
import org.junit.After
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNotEquals
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder

/** By what saved conversations know the model of a file without a manifest: it is read whole, once. */
class FingerprintTest {
    @get:Rule
    val temporary: TemporaryFolder = TemporaryFolder()

    private val tokens = TokenizerFile.read(File(nanoOnnx, "tokenizer.json"))
    private val engine = Engine(Formats(listOf(Lone())))
    private val measurements get() = File(temporary.root, "measurements")

    /** Computes nothing. */
    private class Idle : Backend {
        override val contextLength = 64
        override val mtp: MtpHead? = null
        override val kvBytesPerToken: Long get() = 0
        override fun decode(ids: IntArray, position: Int, rows: Int) = List(rows) { FloatArray(1088) }
        override fun state(tokens: Int): List<StateArray> = emptyList()
        override fun restore(arrays: List<StateArray>, tokens: Int) = Unit
        override fun forget() = Unit
        override fun cancel() = Unit
        override fun renew() = Unit
        override fun close() = Unit
    }

    private inner class Lone : ModelFormat {
        override val name = "gguf"

        override fun load(source: ModelSource, config: EngineConfig, progress: Progress) = model(source.path)

        override fun explain(path: File, error: Throwable): MimoException? = null
    }

    private fun model(file: File): LoadedModel {
        val info = ModelInfo(
            "lone", "q4_0", 64, 0, 0, ExecutionProvider.CPU, null, emptyMap(),
            draftsWithMtp = false, hasChatTemplate = true, synthetic = false,
        )
        return LoadedModel(info, tokens, Idle(), listOf(WeightFile(file, null, KeptSums(measurements))))
    }

    @After
    fun close() = engine.close()

    /** What comes of saving with a model of so many bytes that they take seconds to read, when [meanwhile] is done. */
    private fun saving(meanwhile: suspend (Job) -> Unit): Throwable? = runBlocking {
        val file = temporary.newFile("large.gguf")
        RandomAccessFile(file, "rw").use {
            it.setLength(LARGE_BYTES)
            it.writeBytes("GGUF")
        }
        engine.load(file, EngineConfig { speculation = Speculation.OFF })
        val saved = File(temporary.root, "saved.mimo")
        var error: Throwable? = null
        val save = launch(Dispatchers.Default) {
            error = runCatching { engine.conversation().save(saved) }.exceptionOrNull()
        }
        engine.state.first { it is EngineState.Generating }
        val begun = System.nanoTime()
        meanwhile(save)
        save.join()
        val tookS = (System.nanoTime() - begun) / 1e9
        assertTrue("$tookS s", tookS < SOON_S)
        assertFalse(saved.exists())
        error
    }

    @Test
    fun `stopping the engine ends a save that reads the model's file, and it can be done again`() {
        val error = saving { engine.stop() }
        assertTrue("$error", error is MimoException.WrongState)
        assertEquals("stopped while the model's file was read for its SHA-256; try again", error?.message)
        assertTrue("${engine.state.value}", engine.state.value is EngineState.Ready)
    }

    @Test
    fun `closing the engine ends it`() {
        val error = saving { engine.close() }
        assertTrue("$error", error is MimoException.WrongState)
        assertEquals("the engine is closed", error?.message)
    }

    @Test
    fun `cancelling who saves ends it`() {
        val error = saving { it.cancel() }
        assertTrue("$error", error is CancellationException)
        assertTrue("${engine.state.value}", engine.state.value is EngineState.Ready)
    }

    @Test
    fun `a file is read once, and after it was changed`() {
        val file = File(nanoOnnx, "tokenizer.json")
        val read = model(file).fingerprint
        val kept = checkNotNull(measurements.listFiles()).single()
        assertEquals(sha256(file), kept.readText().trim())
        kept.writeText(sha256("another")) // shows whether it is asked
        assertNotEquals(read, model(file).fingerprint)
        kept.writeText("damaged")
        assertEquals(read, model(file).fingerprint)
        assertEquals(sha256(file), kept.readText().trim())
    }

    @Test
    fun `a sum is not kept that another could take for its own`() {
        val file = temporary.newFile("new.gguf").apply { writeText("GGUF") }
        assertEquals(null, identityOf(file))
        model(file).fingerprint
        assertFalse(measurements.exists())
    }

    private companion object {
        const val LARGE_BYTES = 4_000_000_000L
        const val SOON_S = 2.0
    }
}
