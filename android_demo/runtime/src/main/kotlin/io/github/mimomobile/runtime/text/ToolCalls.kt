package io.github.mimomobile.runtime.text

import io.github.mimomobile.runtime.ToolCall
import io.github.mimomobile.runtime.files.JsonException

/** Both are plain text in MiMo's vocabulary, of several tokens each, and no special tokens. */
internal const val TOOL_CALL_OPEN: String = "<tool_call>"
internal const val TOOL_CALL_CLOSE: String = "</tool_call>"

/** A part of an answer: text, or a call. */
internal data class Said(val text: String, val call: ToolCall? = null)

/**
 * Text in; text and calls out. Text that may be the beginning of a call is held back.
 *
 * @param names The tools; what calls another one is text.
 */
internal class ToolCalls(private val names: Set<String>) {
    private var held = ""

    /** The text before a call, and the calls, that are certain now. */
    fun feed(text: String): List<Said> {
        held += text
        val found = mutableListOf<Said>()
        while (true) {
            val opened = held.indexOf(TOOL_CALL_OPEN)
            val inside = opened + TOOL_CALL_OPEN.length
            val closed = if (opened < 0) -1 else held.indexOf(TOOL_CALL_CLOSE, inside)
            if (closed < 0) {
                val before = if (opened < 0) held.dropLast(overlap(held, TOOL_CALL_OPEN)) else held.substring(0, opened)
                val certain = before.withoutTrailingSpace()
                held = held.substring(certain.length)
                if (certain.isNotEmpty()) found += Said(certain)
                return found
            }
            val call = call(held.substring(inside, closed))
            val end = closed + TOOL_CALL_CLOSE.length
            val said = if (call == null) held.substring(0, end) else held.substring(0, opened).withoutTrailingSpace()
            if (said.isNotEmpty()) found += Said(said)
            if (call != null) found += Said("", call)
            held = held.substring(end)
        }
    }

    /** What was held back, at the end: a call that was cut off is text. */
    fun flush(): String = held.also { held = "" }

    private fun call(text: String): ToolCall? {
        val value = try {
            Json.parse(text) as? Map<*, *>
        } catch (_: JsonException) {
            null
        }
        val name = value?.get("name") as? String
        val arguments = value?.get("arguments") as? Map<*, *>
        if (name == null || arguments == null || name !in names) return null
        return ToolCall(name, arguments.entries.associate { it.key as String to it.value })
    }
}
