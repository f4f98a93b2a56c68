package io.github.mimomobile.runtime.text

import io.github.mimomobile.runtime.Case
import io.github.mimomobile.runtime.golden
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test

class TextTest {
    private fun cases(kind: String): List<Case> =
        golden("text").filter { it.text("kind") == kind }.also { assertTrue(it.size > 20) }

    private fun hex(text: String) = text.chunked(2).map { it.toInt(16).toByte() }.toByteArray()

    @Test
    fun `only whole characters come out, and the same signs for broken ones as in Python`() {
        for (case in cases("bytes")) {
            val detokenizer = Detokenizer()
            val out = case.texts("in").map { detokenizer.feed(hex(it)) } + detokenizer.flush()
            val expected = case.texts("out")
            assertEquals(expected.joinToString(""), out.joinToString(""))
            // Python says a little later that some bytes are broken.
            if (expected.none { "\uFFFD" in it }) assertEquals(expected, out)
        }
    }

    @Test
    fun `nothing from a stop string on comes out`() {
        for (case in cases("stops")) {
            val stops = StopStrings(case.texts("stops"))
            assertEquals(case.texts("out"), case.texts("in").map(stops::feed) + stops.flush())
        }
    }

    @Test
    fun `thinking is split wherever tags are cut`() {
        for (case in cases("thinking")) {
            val splitter = ThinkingSplitter()
            fun plain(pieces: List<Piece>) = pieces.map { listOf(it.channel.name.lowercase(), it.text) }
            val out = case.texts("in").map { plain(splitter.feed(it)) } + listOf(plain(splitter.flush()))
            assertEquals(case.list("out"), out)
        }
    }

    @Test
    fun `chats are rendered as by the template`() {
        for (case in golden("chat")) {
            assertEquals(case.text("prompt"), ChatTemplate.render(case.messages(), case.boolean("thinking")))
        }
    }
}
