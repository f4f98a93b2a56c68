package io.github.mimomobile.runtime.text

import io.github.mimomobile.runtime.Case
import io.github.mimomobile.runtime.Channel
import io.github.mimomobile.runtime.golden
import io.github.mimomobile.runtime.nanoOnnx
import java.io.File
import kotlin.random.Random
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
    fun `the stop string that begins first ends a text, wherever it is cut`() {
        val random = Random(0)
        fun draw(size: Int) = (1..size).joinToString("") { "ab<".random(random).toString() }
        repeat(400) {
            val text = draw(random.nextInt(9))
            val words = List(random.nextInt(4)) { draw(1 + random.nextInt(4)) }
            val found = words.map { text.indexOf(it) }.filter { it >= 0 }.minOrNull()
            for (pieces in chunkings(text)) {
                val stops = StopStrings(words)
                val out = pieces.map(stops::feed) + stops.flush()
                assertEquals("$pieces $words", text.substring(0, found ?: text.length), out.joinToString(""))
                assertEquals("$pieces $words", found != null, stops.stopped)
            }
        }
    }

    /** The text cut in every possible way. */
    private fun chunkings(text: String): List<List<String>> = (0 until (1 shl maxOf(text.length - 1, 0))).map { mask ->
        val places = (1 until text.length).filter { mask shr it - 1 and 1 == 1 }
        (listOf(0) + places + text.length).zipWithNext { from, until -> text.substring(from, until) }
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
    fun `a text that goes on where it was cut gives what it would have given uncut, and nothing twice`() {
        val long = "<think>\n1 + 1\n = 2\n</think>\n\n2\n 3"
        val texts = listOf(long, "<think>a </th\n\n</think> b", "<think>\n\n</think>\n\n4")
        for (text in texts) {
            for (cut in "<think>".length..text.length) {
                val first = ThinkingSplitter()
                val begun = first.feed(text.substring(0, cut)) + first.flush()
                val second = ThinkingSplitter().apply { resume(text.substring(0, cut)) }
                val rest = second.feed(text.substring(cut)) + second.flush()
                val whole = ThinkingSplitter().run { feed(text) + flush() }
                fun of(pieces: List<Piece>, channel: Channel) =
                    pieces.filter { it.channel == channel }.joinToString("") { it.text }
                assertEquals("$text at $cut", of(whole, Channel.ANSWER), of(begun + rest, Channel.ANSWER))
                val thinking = of(begun + rest, Channel.THINKING)
                // What looked like a tag, or white space before it, may have been shown when the text was cut.
                assertTrue("$text at $cut: $thinking", thinking.startsWith(of(whole, Channel.THINKING)))
                assertTrue(thinking.length < of(whole, Channel.THINKING).length + "\n\n</think>".length)
            }
        }
    }

    @Test
    fun `loops are found where Python finds them`() {
        val cases = golden("loops")
        assertTrue(cases.size > 20)
        for (case in cases) {
            val guard = LoopGuard()
            var at = 0
            val points = case.text("text").codePoints().toArray()
            while (at < points.size && !guard.found) guard.feed(String(points, at++, 1))
            assertEquals("$case", case.optionalInt("found_at"), at.takeIf { guard.found })
        }
    }

    @Test
    fun `chats are rendered as by the template, and what messages say is text`() {
        val tokenizer = TokenizerFile.read(File(nanoOnnx, "tokenizer.json"))
        for (case in golden("chat")) {
            val segments = ChatTemplate.render(case.messages(), ChatTemplate.opening(case.boolean("thinking")))
            assertEquals(case.text("prompt"), segments.joinToString("") { it.text })
            assertEquals("$case", case.ints("ids"), tokenizer.encode(segments).asList())
        }
    }
}
