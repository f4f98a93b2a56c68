package io.github.mimomobile.runtime.files

import java.io.ByteArrayInputStream
import java.io.InputStream
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test

class JsonReaderTest {
    private fun read(text: String) = JsonReader(text.byteInputStream()).readValue()

    @Test
    fun `every kind of value is read`() {
        val text = """ {"a": [1, -2.5e2, true, false, null, "x"], "b": {}, "c": [], "": "é 计 🙂"} """
        val expected = mapOf(
            "a" to listOf(1.0, -250.0, true, false, null, "x"),
            "b" to emptyMap<String, Any>(),
            "c" to emptyList<Any>(),
            "" to "é 计 🙂",
        )
        assertEquals(expected, read(text))
    }

    @Test
    fun `escapes become characters`() {
        assertEquals("\" \\ / \b \u000c \n \r \t é 🙂", read(""""\" \\ \/ \b \f \n \r \t \u00e9 \ud83d\ude42""""))
    }

    @Test
    fun `it does not matter where the stream is cut`() {
        val text = """{"${"k".repeat(70_000)}": ["é计🙂", 12345]}"""
        val slow = object : InputStream() {
            private val whole = ByteArrayInputStream(text.encodeToByteArray())
            override fun read(): Int = whole.read()
            override fun read(bytes: ByteArray, offset: Int, length: Int): Int =
                whole.read(bytes, offset, minOf(length, 1))
        }
        assertEquals(mapOf("k".repeat(70_000) to listOf("é计🙂", 12345.0)), JsonReader(slow).readValue())
        assertEquals("x".repeat(999), read("\"${"x".repeat(999)}\""))
    }

    @Test
    fun `what is skipped is passed over whole`() {
        val json = JsonReader("""{"a": [{"x": "]}"}, [1, "\""], null], "b": 7}""".byteInputStream())
        var found = 0
        json.readObject { if (it == "b") found = json.readInt() else json.skipValue() }
        assertEquals(7, found)
    }

    @Test
    fun `what is no JSON is an error that says where`() {
        val wrong = listOf(
            "", "{", "[1", "[1 2]", "{\"a\" 1}", "\"a", "\"\\x\"", "\"\\u12g4\"", "\"\u0001\"",
            "tru", "nul1", "1e", "--1", "[".repeat(100), "[1,]", "01", "-", "+1", ".5", "1.", "1f", "0x1", "1e+",
        )
        for (text in wrong) {
            val error = assertThrows(text, JsonException::class.java) { read(text) }
            assertTrue(error.message!!, error.message!!.startsWith("at byte "))
        }
        for (bytes in listOf("22ff22", "22c322", "22e4bd22", "22f5808080")) {
            val data = bytes.chunked(2).map { it.toInt(16).toByte() }.toByteArray()
            assertThrows(bytes, JsonException::class.java) { JsonReader(data.inputStream()).readValue() }
        }
        val two = assertThrows(JsonException::class.java) { JsonReader("{}\n x".byteInputStream()).readDocument() }
        assertEquals("at byte 4: more than one value", two.message)
        assertEquals(emptyMap<String, Any>(), JsonReader("{} \r\n\t".byteInputStream()).readDocument())
        assertThrows(JsonException::class.java) { JsonReader("1.5".byteInputStream()).readInt() }
        assertThrows(JsonException::class.java) { JsonReader("3000000000".byteInputStream()).readInt() }
    }
}
