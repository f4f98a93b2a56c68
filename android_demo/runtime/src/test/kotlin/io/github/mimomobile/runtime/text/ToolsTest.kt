package io.github.mimomobile.runtime.text

import io.github.mimomobile.runtime.Case
import io.github.mimomobile.runtime.GenerationConfig
import io.github.mimomobile.runtime.Message
import io.github.mimomobile.runtime.Role
import io.github.mimomobile.runtime.Structure
import io.github.mimomobile.runtime.Tool
import io.github.mimomobile.runtime.ToolCall
import io.github.mimomobile.runtime.golden
import io.github.mimomobile.runtime.nanoOnnx
import java.io.File
import java.util.Locale
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test

class ToolsTest {
    private fun cases(kind: String): List<Case> =
        golden("tools").filter { it.text("kind") == kind }.also { assertTrue(it.size > 5) }

    @Suppress("UNCHECKED_CAST")
    private fun call(name: Any?, text: Any?) = ToolCall(name as String, Json.parse(text as String) as Map<String, Any?>)

    @Test
    fun `tools, calls and results are rendered as by the template`() {
        val tokenizer = TokenizerFile.read(File(nanoOnnx, "tokenizer.json"))
        for (case in cases("prompt")) {
            val messages = case.list("messages").map {
                val (role, content, calls) = it as List<*>
                val toolCalls = (calls as List<*>).map { call -> (call as List<*>).let { (name, text) -> call(name, text) } }
                Message(Role.valueOf((role as String).uppercase()), content as String, toolCalls)
            }
            val segments = ChatTemplate.render(messages, ChatTemplate.opening(true), case.texts("tools").map { Tool(it) })
            assertEquals(case.text("prompt"), segments.joinToString("") { it.text })
            assertEquals("$case", case.ints("ids"), tokenizer.encode(segments).asList())
        }
    }

    private fun plain(said: List<Said>) = said.map { each -> each.call?.let { listOf(it.name, it.text) } ?: listOf(each.text) }

    @Test
    fun `calls come when Python says so, and nothing of their markup reaches the text`() {
        for (case in cases("stream")) {
            val calls = ToolCalls(setOf("add"))
            val points = case.text("text").codePoints().toArray().map { String(intArrayOf(it), 0, 1) }
            assertEquals("$case", case.list("out"), points.map { plain(calls.feed(it)) })
            assertEquals("$case", case.text("rest"), calls.flush())
        }
    }

    @Test
    fun `calls are found wherever a text is cut in two`() {
        for (case in cases("stream")) {
            val whole = case.list("out").flatMap { it as List<*> }.map { it as List<*> }
            val text = case.text("text")
            for (cut in 0..text.length) {
                val calls = ToolCalls(setOf("add"))
                val found = plain(calls.feed(text.substring(0, cut)) + calls.feed(text.substring(cut)))
                assertEquals(whole.filter { it.size == 2 }, found.filter { it.size == 2 })
                val said = { parts: List<List<*>> -> parts.filter { it.size == 1 }.joinToString("") { it[0] as String } }
                assertEquals(said(whole) + case.text("rest"), said(found) + calls.flush())
            }
        }
    }

    @Test
    fun `a call of what is no tool is text`() {
        val text = """<tool_call>{"name": "rm", "arguments": {}}</tool_call>"""
        assertEquals(listOf(Said(text)), ToolCalls(setOf("add")).feed(text))
    }

    @Test
    fun `what is no tool is an error that says so`() {
        for (case in cases("wrong")) {
            val error = assertThrows("$case", IllegalArgumentException::class.java) { Tool(case.text("text")) }
            assertTrue("${error.message}", error.message!!.startsWith("tool"))
        }
    }

    @Test
    fun `numbers of arguments are JSON in every language`() {
        val before = Locale.getDefault()
        try {
            Locale.setDefault(Locale.forLanguageTag("ar-EG-u-nu-arab"))
            val written = call("add", """{"a": 1e-5, "b": -2.5e20, "c": 12}""").text
            assertEquals("""{"a": 1e-05, "b": -2.5e+20, "c": 12}""", written)
        } finally {
            Locale.setDefault(before)
        }
    }

    @Test
    fun `choices that no tool fits are errors`() {
        val tool = Tool("""{"type": "function", "function": {"name": "add"}}""")
        fun message(change: GenerationConfig.Builder.() -> Unit) =
            assertThrows(IllegalArgumentException::class.java) { GenerationConfig(change) }.message!!
        assertTrue("two are called 'add'" in message { tools = listOf(tool, tool) })
        assertTrue("'sub' is neither auto, none, required nor" in message { tools = listOf(tool); toolChoice = "sub" })
        assertTrue("there are no tools" in message { toolChoice = "required" })
        assertTrue("give one of them" in message { tools = listOf(tool); structure = Structure.choice(listOf("a")) })
        assertTrue("must be able to end" in message { structure = Structure.choice(listOf("a")); ignoreEnd = true })
        assertThrows(IllegalArgumentException::class.java) { Message(Role.USER, "", listOf(ToolCall("add", emptyMap()))) }
    }
}
