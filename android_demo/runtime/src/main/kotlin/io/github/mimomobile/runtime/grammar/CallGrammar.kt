package io.github.mimomobile.runtime.grammar

import io.github.mimomobile.runtime.Tool
import io.github.mimomobile.runtime.text.Json
import io.github.mimomobile.runtime.text.TOOL_CALL_CLOSE
import io.github.mimomobile.runtime.text.TOOL_CALL_OPEN

/** The GBNF grammar of calls, laid out as the template writes them in later prompts, which the KV cache then has. */
internal object CallGrammar {
    /** Of one call or [several], the first with its `<tool_call>` when it comes [atOnce]. */
    fun of(tools: List<Tool>, atOnce: Boolean, several: Boolean): String {
        val rules = StringBuilder()
        val opened = Choices.literal(TOOL_CALL_OPEN)
        rules.append("root ::= ${if (atOnce) "$opened " else ""}body${if (several) " more*" else ""}\n")
        if (several) rules.append("more ::= \"\\n\" $opened body\n")
        val calls = tools.indices.joinToString(" | ") { "tool-$it" }
        rules.append("body ::= \"\\n{\\\"name\\\": \" ( $calls ) ${Choices.literal("}\n$TOOL_CALL_CLOSE")}\n")
        tools.forEachIndexed { place, tool ->
            val strict = (tool.described["function"] as Map<*, *>)["strict"] == true
            val schema = SchemaGrammar("tool ${tool.name}", "t$place-", isCompact = true, isLenient = !strict)
            rules.append("tool-$place ::= ${Choices.literal("${Json.text(tool.name)}, \"arguments\": ")} t$place-root\n")
            rules.append(schema.of(tool.schema))
        }
        return rules.toString()
    }
}
