package io.github.mimomobile.runtime.decode

import io.github.mimomobile.runtime.text.TOOL_CALL_OPEN
import io.github.mimomobile.runtime.text.Tokenizer

/**
 * An answer that may say anything, but whose calls a grammar restricts.
 *
 * @param calls Makes what restricts the text after the first `<tool_call>`.
 */
internal class FreeUntilCall(private val tokenizer: Tokenizer, private val calls: () -> Constraint) : Constraint {
    private val crossing = Crossing(tokenizer, TOOL_CALL_OPEN) { it.isNotEmpty() }
    private var matcher: Constraint? = null
    private var text = ""

    override val over: Boolean get() = matcher?.over ?: false

    override fun mask(logits: FloatArray) {
        matcher?.mask(logits) ?: crossing.mask(text, logits)
    }

    override fun certain(): IntArray = matcher?.certain() ?: IntArray(0)

    override fun accept(token: Int) {
        matcher?.let { return it.accept(token) }
        text += latin(tokenizer, token)
        if (text.endsWith(TOOL_CALL_OPEN)) matcher = calls()
        text = text.takeLast(TOOL_CALL_OPEN.length - 1)
    }

    override fun close() {
        matcher?.close()
    }
}
