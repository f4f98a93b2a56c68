package io.github.mimomobile.runtime.llama

import io.github.mimomobile.runtime.Speculation
import io.github.mimomobile.runtime.decode.checkAnswers
import io.github.mimomobile.runtime.decode.checkParity
import org.junit.Test

/** llama.cpp on the real MiMo-nano in q4_0, turn after turn in one KV cache, against Python's. */
class GgufParityTest {
    private fun parity(speculation: Speculation) = checkParity("nano-gguf", "q4_0", speculation, ::loadNano)

    @Test
    fun `tokens, texts and cache are Python's without drafts`() = parity(Speculation.OFF)

    @Test
    fun `tokens, texts, cache and drafts are Python's with the MTP layer`() = parity(Speculation.MTP)

    @Test
    fun `tokens, texts, cache and drafts are Python's with prompt lookup`() = parity(Speculation.NGRAM)

    @Test
    fun `answers that keep to structures, and calls, are Python's token by token`() =
        checkAnswers("nano-gguf", "q4_0", ::loadNano)
}
