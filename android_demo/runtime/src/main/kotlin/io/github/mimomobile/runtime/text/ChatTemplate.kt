package io.github.mimomobile.runtime.text

import io.github.mimomobile.runtime.Message
import io.github.mimomobile.runtime.Role
import io.github.mimomobile.runtime.Tool
import io.github.mimomobile.runtime.ToolCall

/**
 * MiMo's chat template, which is Qwen2.5's ChatML.
 *
 * Special tokens are the template's alone: what a message says is text, whatever it says.
 */
internal object ChatTemplate {
    /** What ends thinking when its budget is used up. */
    const val CLOSE_THINKING: String = "\n$THINK_CLOSE\n\n"

    /** What opens thinking where an answer of a certain form follows it. */
    const val OPEN_THINKING: String = "$THINK_OPEN\n"

    /** How the assistant's turn begins when it is not to think: an empty block. */
    private const val NO_THINKING = "$THINK_OPEN\n$THINK_CLOSE\n\n"

    private val START = Segment("<|im_start|>", special = true)
    private val END = Segment("<|im_end|>", special = true)

    /** Whether [template], the text of chat_template.jinja, is ChatML. */
    fun isKnown(template: String): Boolean = START.text in template && END.text in template

    /**
     * The prompt for the assistant's next turn, its special tokens apart from its text.
     *
     * Without a system message an empty one is put first, as Xiaomi recommends; the template would write its own.
     *
     * @param begun What that turn has said already, as [opening] gives it.
     * @param tools What the answer may call.
     */
    fun render(messages: List<Message>, begun: String, tools: List<Tool> = emptyList()): List<Segment> = buildList {
        val system = messages.firstOrNull()?.takeIf { it.role == Role.SYSTEM }
        turn("system\n${system?.content ?: ""}${if (tools.isEmpty()) "" else described(tools)}")
        val rest = if (system == null) messages else messages.drop(1)
        rest.forEachIndexed { index, message ->
            if (message.toolCalls.isNotEmpty()) {
                val said = if (message.content.isEmpty()) "" else "\n${message.content}"
                turn("assistant$said${message.toolCalls.joinToString("", transform = ::written)}")
            } else if (message.role != Role.TOOL) {
                turn("${message.role.name.lowercase()}\n${message.content}")
            } else {
                // Results of tools that follow each other share a turn of the user.
                if (rest.getOrNull(index - 1)?.role != Role.TOOL) begin("user")
                add(Segment("\n<tool_response>\n${message.content}\n</tool_response>"))
                if (rest.getOrNull(index + 1)?.role != Role.TOOL) end()
            }
        }
        begin("assistant\n$begun")
    }

    /** How a turn begins that has thought and answered so much, and may go on thinking or not. */
    fun opening(thinking: Boolean, thought: String = "", answer: String = ""): String = when {
        thought.isEmpty() && thinking -> answer
        thought.isEmpty() -> NO_THINKING + answer
        answer.isEmpty() && thinking -> "$THINK_OPEN\n$thought"
        else -> "$THINK_OPEN\n$thought$CLOSE_THINKING$answer"
    }

    private fun described(tools: List<Tool>): String =
        "\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n" +
            "You are provided with function signatures within <tools></tools> XML tags:\n<tools>" +
            tools.joinToString("") { "\n${it.text}" } +
            "\n</tools>\n\nFor each function call, return a json object with function name and arguments within " +
            "$TOOL_CALL_OPEN$TOOL_CALL_CLOSE XML tags:\n$TOOL_CALL_OPEN\n" +
            "{\"name\": <function-name>, \"arguments\": <args-json-object>}\n$TOOL_CALL_CLOSE"

    private fun written(call: ToolCall): String =
        "\n$TOOL_CALL_OPEN\n{\"name\": \"${call.name}\", \"arguments\": ${call.text}}\n$TOOL_CALL_CLOSE"

    /** How an earlier turn begins whose thinking a prompt repeats. */
    fun thought(thinking: String): String = "$THINK_OPEN\n$thinking$CLOSE_THINKING"

    private fun MutableList<Segment>.turn(text: String) {
        begin(text)
        end()
    }

    private fun MutableList<Segment>.begin(text: String) {
        add(START)
        add(Segment(text))
    }

    private fun MutableList<Segment>.end() {
        add(END)
        add(Segment("\n"))
    }
}
