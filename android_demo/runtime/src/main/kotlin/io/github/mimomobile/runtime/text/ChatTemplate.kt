package io.github.mimomobile.runtime.text

import io.github.mimomobile.runtime.Message
import io.github.mimomobile.runtime.Role

/** MiMo's chat template, which is Qwen2.5's ChatML, without tools. */
internal object ChatTemplate {
    /** What ends thinking when its budget is used up. */
    const val CLOSE_THINKING: String = "\n$THINK_CLOSE\n\n"

    /** How the assistant's turn begins when it is not to think: an empty block. */
    private const val NO_THINKING = "$THINK_OPEN\n$THINK_CLOSE\n\n"

    /** What a template must contain to be rendered as this one. */
    private val MARKS = listOf("<|im_start|>", "<|im_end|>")

    /** Whether [template], the text of chat_template.jinja, is ChatML. */
    fun isKnown(template: String): Boolean = MARKS.all { it in template }

    /**
     * The prompt for the assistant's next turn.
     *
     * Without a system message an empty one is put first, as Xiaomi recommends; the template would write its own.
     */
    fun render(messages: List<Message>, thinking: Boolean): String = buildString {
        val system = messages.firstOrNull()?.takeIf { it.role == Role.SYSTEM }
        turn("system", system?.content ?: "")
        val rest = if (system == null) messages else messages.drop(1)
        rest.forEachIndexed { index, message ->
            if (message.role != Role.TOOL) {
                turn(message.role.name.lowercase(), message.content)
            } else {
                // Results of tools that follow each other share a turn of the user.
                if (rest.getOrNull(index - 1)?.role != Role.TOOL) append("<|im_start|>user")
                append("\n<tool_response>\n${message.content}\n</tool_response>")
                if (rest.getOrNull(index + 1)?.role != Role.TOOL) append("<|im_end|>\n")
            }
        }
        append("<|im_start|>assistant\n")
        if (!thinking) append(NO_THINKING)
    }

    private fun StringBuilder.turn(role: String, content: String) {
        append("<|im_start|>$role\n$content<|im_end|>\n")
    }
}
