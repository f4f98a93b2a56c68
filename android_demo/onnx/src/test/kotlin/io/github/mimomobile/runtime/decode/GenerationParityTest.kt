package io.github.mimomobile.runtime.decode

import io.github.mimomobile.runtime.EngineConfig
import io.github.mimomobile.runtime.ExecutionProvider
import io.github.mimomobile.runtime.LoadedModel
import io.github.mimomobile.runtime.NpuMode
import io.github.mimomobile.runtime.Speculation
import io.github.mimomobile.runtime.Sweep
import io.github.mimomobile.runtime.golden
import io.github.mimomobile.runtime.nano
import io.github.mimomobile.runtime.nanoHot
import io.github.mimomobile.runtime.nanoNpu
import io.github.mimomobile.runtime.nanoPrompts
import io.github.mimomobile.runtime.npu.openOnCpu
import io.github.mimomobile.runtime.onnx.loader
import java.io.File
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test
import org.junit.experimental.categories.Category

/** The real ONNX Runtime on the real MiMo-nano in int4, turn after turn in one KV cache, against Python's. */
class GenerationParityTest {
    private fun parity(speculation: Speculation, name: String = "nano", load: (EngineConfig) -> LoadedModel) =
        checkParity(name, "int4_b32", speculation, load)

    private fun onHot(config: EngineConfig) = loader(nanoHot, config).load { _, _ -> }

    private fun onCpu(config: EngineConfig) = loader(nano, config).load { _, _ -> }

    /** Pieces for an NPU, in its windows, on the CPU: it stands in for the NPU. */
    private fun inPieces(config: EngineConfig) =
        loader(nanoNpu, config.copy { provider = ExecutionProvider.QNN }, openPiece = ::openOnCpu).load { _, _ -> }

    /** Prompts in pieces for an NPU, tokens on the CPU. */
    private fun inSplit(root: File) = { config: EngineConfig ->
        val split = config.copy { provider = ExecutionProvider.QNN; npuMode = NpuMode.SPLIT }
        loader(root, split, openPiece = ::openOnCpu).load { _, _ -> }
            .also { assertEquals(NpuMode.SPLIT, it.info.npuMode) }
    }

    @Test
    fun `tokens, texts and cache are Python's without drafts`() = parity(Speculation.OFF, load = ::onCpu)

    @Test
    fun `tokens, texts, cache and drafts are Python's with the MTP layer`() = parity(Speculation.MTP, load = ::onCpu)

    @Test
    fun `tokens, texts, cache and drafts are Python's with prompt lookup`() = parity(Speculation.NGRAM, load = ::onCpu)

    @Test
    fun `answers that keep to structures, and calls, are Python's token by token`() = checkAnswers("nano", "int4_b32", ::onCpu)

    @Category(Sweep::class)
    @Test
    fun `they are Python's with prompt lookup in pieces for an NPU, and in its prompts alone, too`() {
        parity(Speculation.NGRAM, load = ::inPieces)
        parity(Speculation.NGRAM, load = inSplit(nanoPrompts))
    }

    @Test
    fun `prompt lookup's drafts are often right, and change no text`() {
        val cases = golden("generation")
        val (off, ngram) = listOf("off", "ngram").map { mode -> cases.filter { it.text("speculate") == mode } }
        assertEquals(off.map { it.ints("ids").toList() }, ngram.map { it.ints("ids").toList() })
        assertTrue(ngram.sumOf { it.int("accepted_tokens") } > 100)
    }

    @Test
    fun `they are Python's in pieces for an NPU, too`() = parity(Speculation.OFF, load = ::inPieces)

    @Category(Sweep::class)
    @Test
    fun `they are Python's in pieces for an NPU with the MTP layer, too`() = parity(Speculation.MTP, load = ::inPieces)

    @Category(Sweep::class)
    @Test
    fun `they are Python's with prompts in pieces for an NPU and tokens on the CPU, too`() {
        parity(Speculation.OFF, load = inSplit(nanoNpu))
        parity(Speculation.MTP, load = inSplit(nanoPrompts))
    }

    @Category(Sweep::class)
    @Test
    fun `they are Python's when numbers are too large for float16, with drafts and without`() {
        parity(Speculation.OFF, "hot", ::onHot)
        parity(Speculation.MTP, "hot", ::onHot)
        parity(Speculation.NGRAM, "hot", ::onHot)
    }
}
