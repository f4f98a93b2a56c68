package io.github.mimomobile.runtime.grammar

import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.Structure
import io.github.mimomobile.runtime.Sweep
import io.github.mimomobile.runtime.Tool
import io.github.mimomobile.runtime.decode.Constraint
import io.github.mimomobile.runtime.decode.FreeUntilCall
import io.github.mimomobile.runtime.golden
import io.github.mimomobile.runtime.nanoOnnx
import io.github.mimomobile.runtime.text.TokenizerFile
import java.io.File
import java.lang.ref.WeakReference
import java.util.SplittableRandom
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNotNull
import org.junit.Assert.assertNull
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test
import org.junit.experimental.categories.Category

/** Structures on MiMo-nano's tokenizer, against llguidance's verdicts. */
class GrammarsTest {
    private fun constraint(structure: Structure) = grammars.matcher(structure)

    private fun Constraint.allows(token: Int): Boolean = FloatArray(tokenizer.size).also(::mask)[token] == 0f

    private fun keeps(constraint: Constraint, text: String): Boolean {
        for (token in tokenizer.encode(text)) {
            if (!constraint.allows(token)) return false
            constraint.accept(token)
        }
        return tokenizer.stopIds.all { constraint.allows(it) }
    }

    @Test
    fun `texts keep to a structure where llguidance says so, and nowhere else`() {
        val cases = golden("structures")
        assertTrue(cases.size > 20)
        for (case in cases) {
            val structure = Structure(Structure.Kind.valueOf(case.text("kind").uppercase()), case.text("structure"))
            for (verdict in case.list("verdicts")) {
                val (text, keeps) = verdict as List<*>
                val found = constraint(structure).use { keeps(it, text as String) }
                assertEquals("${structure.text}: $text", keeps, found)
            }
        }
    }

    @Test
    fun `an answer may say anything until it calls, and then keeps to the call`() {
        val tools = listOf(Tool("""{"type": "function", "function": {"name": "now"}}"""))
        val free = FreeUntilCall(tokenizer) { grammars.calls(tools, atOnce = false, several = true) }
        free.use { constraint ->
            for (token in tokenizer.encode("Let me see <tool> <tool_call")) constraint.also { assertTrue(it.allows(token)) }.accept(token)
            assertTrue(tokenizer.stopIds.all { constraint.allows(it) })
            tokenizer.encode(">").forEach(constraint::accept)
            assertTrue(tokenizer.stopIds.none { constraint.allows(it) })
            val call = "\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>"
            assertTrue(keeps(constraint, "$call\n<tool_call>$call"))
        }
    }

    @Test
    fun `names of special tokens are no text, and no other end than a turn's ends an answer`() {
        constraint(Structure.grammar("root ::= [^0]* \"0\"")).use { matcher ->
            for (token in 0 until tokenizer.size) {
                if (tokenizer.tokenBytes(token).isEmpty()) assertTrue("$token", !matcher.allows(token))
            }
        }
    }

    @Test
    fun `what a grammar cannot say is refused with its name and place`() {
        val places = mapOf(
            """{"anyOf": [{"type": "string"}, {"not": {}}]}""" to "at #/anyOf/1: the keyword not",
            """{"${'$'}ref": "https://example.com/schema"}""" to "example.com/schema, which is elsewhere",
            """{"type": "array", "uniqueItems": true}""" to "at #: the keyword uniqueItems",
            """{"type": "number", "minimum": 1e300}""" to "at #: minimum 1.0E300, a number of 15 digits at most",
            """{"type": "number", "maximum": 1e-40}""" to "15 digits at most, and 30 behind the point, expected",
            """{"type": "number", "minimum": 1, "exclusiveMinimum": true}""" to "at #: exclusiveMinimum true, a number",
            """{"type": "string", "maxLength": 70000}""" to "maxLength 70000, 65536 at most",
            """{"oneOf": [{"type": "integer"}, {"type": "number"}]}""" to "at #: oneOf, whose 0 and 1 may both be met",
            """{"oneOf": [{"const": 1}, {"enum": ["a", 1.0]}]}""" to "at #: oneOf, whose 0 and 1 may both be met",
            """{"oneOf": [{}, {"type": "null"}]}""" to "at #: oneOf, whose 0 and 1 may both be met",
            """{"oneOf": [{"type": "object"}, {"properties": {"a": {"const": 1}}, "required": ["a"]}]}""" to "both be met",
            """{"allOf": [{"minimum": 1}, {"maximum": 2}]}""" to "at #: allOf of several",
            """{"allOf": [{"minimum": 1}], "type": "integer"}""" to "at #: allOf beside type",
            """{"format": "uri"}""" to "at #: the format uri",
            """{"pattern": "a", "maxLength": 2}""" to "at #: pattern beside maxLength",
            """{"pattern": "a", "format": "date"}""" to "at #: pattern beside format",
            """{"items": {"pattern": "^(?=a)"}}""" to "at #/items: pattern: at character 1: (?=",
        )
        for ((schema, message) in places) {
            val error = assertThrows(MimoException.Unsupported::class.java) { constraint(Structure.schema(schema)) }
            assertTrue("${error.message}", message in error.message!!)
        }
    }

    @Test
    fun `a schema that no value meets is an error`() {
        val places = mapOf(
            """{"required": ["a"], "additionalProperties": false}""" to "a, which additionalProperties do not allow",
            """{"required": [1]}""" to "at #: required: names expected",
            """{"type": "number", "minimum": 2, "maximum": 1.5}""" to "at #: no number from minimum 2 to maximum 1.5",
            """{"type": "number", "minimum": 0.5, "exclusiveMaximum": 0.5}""" to "at #: no number from minimum 0.5",
            """{"items": {"type": "integer", "minimum": 0.1, "maximum": 0.9}}""" to "at #/items: no integer from",
            """{"type": "integer", "const": 1.5}""" to "at #: no value of its type",
        )
        for ((schema, message) in places) {
            val error = assertThrows(IllegalArgumentException::class.java) { constraint(Structure.schema(schema)) }
            assertTrue("${error.message}", message in error.message!!)
        }
    }

    @Test
    fun `constants are exact where llguidance rounds them`() {
        val exact = constraint(Structure.schema("""{"enum": [9007199254740993, 18446744073709551617]}"""))
        exact.use { assertTrue(keeps(it, "9007199254740993")) }
    }

    @Test
    fun `bounds are followed in tools that are not strict, too, unless no grammar can say them`() {
        fun call(bounds: String) = grammars.calls(
            listOf(
                Tool(
                    """{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties":
                    {"x": {"type": "number", $bounds}}, "required": ["x"], "additionalProperties": false}}}""",
                ),
            ),
            atOnce = true, several = false,
        )
        fun text(number: String) = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": $number}}\n</tool_call>"
        call(""""minimum": 0, "maximum": 1""").use { assertTrue(keeps(it, text("0.25"))) }
        call(""""minimum": 0, "maximum": 1""").use { assertTrue(!keeps(it, text("1.25"))) }
        call(""""minimum": -1e300, "maximum": 1""").use { assertTrue(keeps(it, text("-2.5"))) }
    }

    @Test
    fun `what a regular expression cannot be is refused with its place`() {
        val unknown = mapOf(
            "a(?i)b" to "at character 1: (?i", "(?=a)" to "(?=", "(?:(?<=a)b)" to "at character 3: (?<", "(?s:.)" to "(?s",
            "(?P<1>a)" to "(?P", "ab\\b" to "at character 2: \\b", "\\p{L}" to "\\p", "(a)\\1" to "at character 3: \\1",
            "\\<a" to "\\<", "\\é" to "\\é", "[[:alpha:]]" to "at character 1: a class within a class", "[a-z&&[^b]]" to "&&",
            "[a--b]" to "--", "[a~~b]" to "~~", "a^b" to "at character 1: an anchor within", "a\$b" to "an anchor",
            "(^a)" to "an anchor", "(a|b\$)" to "an anchor", "^*a" to "an anchor", "a{70000}" to "more than 65536",
            "(".repeat(30) + ")".repeat(30) to "more than 20 brackets",
        )
        for ((expression, message) in unknown) {
            val error = assertThrows(expression, MimoException.Unsupported::class.java) { constraint(Structure.regex(expression)) }
            assertTrue("$expression: ${error.message}", error.message!!.startsWith("regex: at character ") && message in error.message!!)
        }
        val wrong = listOf(
            "(", "a)", "(a", "[", "[]", "[^]", "[z-a]", "[\\d-z]", "[a-\\d]", "a{", "a{x}", "a{,2}", "a{5,3}", "+a", "a|*", "(*)",
            "\\", "\\x4", "\\x{110000}", "\\ud800", "\\u{ 61 }", "[^\\s\\S]", "a\ud800b",
        )
        for (expression in wrong) {
            val error = assertThrows(expression, IllegalArgumentException::class.java) { constraint(Structure.regex(expression)) }
            assertTrue("${error.message}", error.message!!.startsWith("regex: "))
        }
    }

    @Test
    fun `what may be repeated without an end is no reason to hang`() {
        for (text in listOf("(a*)*", "((a*)*)*b", "(a|a|a*)*", "(a*){0,600}", "((a?){5}){5}b", "(a{0,100}){0,100}")) {
            val matcher = constraint(Structure.regex(text))
            matcher.use { tokenizer.encode("aaaa").forEach { token -> if (it.allows(token)) it.accept(token) } }
        }
        constraint(Structure.regex("\\w".repeat(20_000))).use { assertTrue(it.allows(tokenizer.encode("a")[0])) }
        val classes = (0 until 4000).joinToString("") { "[\\w\\x{${(0xF0000 + it).toString(16)}}]" } // none in \w
        assertThrows(IllegalArgumentException::class.java) { constraint(Structure.regex(classes)) }
        for (text in listOf("(a*){0,60000}", "((a{1,9999}){1,9999}){1,9999}b")) {
            val error = assertThrows(IllegalArgumentException::class.java) {
                constraint(Structure.regex(text)).use { matcher -> repeat(2000) { matcher.accept(tokenizer.encode("a")[0]) } }
            }
            assertTrue("${error.message}", "too ambiguous" in error.message!!)
        }
    }

    @Test
    fun `text that is certain is told, as far as there is only one`() {
        fun certain(structure: Structure, begun: String = ""): String = constraint(structure).use { matcher ->
            tokenizer.encode(begun).forEach(matcher::accept)
            tokenizer.decode(matcher.certain())
        }
        assertEquals("{\"name\": ", certain(Structure.grammar("root ::= \"{\\\"name\\\": \" [0-9]+")))
        assertEquals("", certain(Structure.choice(listOf("abc", "ad", "a")))) // "ad" is a token, too
        assertEquals("the", certain(Structure.choice(listOf("the result", "the sum"))))
        assertEquals("\uFFFD", certain(Structure.regex("🙂|🙃"))) // the first three of four bytes
        assertEquals("yes", certain(Structure.choice(listOf("yes"))))
        assertEquals("s", certain(Structure.choice(listOf("yes")), "ye"))
        assertEquals("", certain(Structure.choice(listOf("yes", "no"))))
        assertEquals("计🙂", certain(Structure.regex("计🙂(a|b)")))
        assertEquals("a".repeat(128), certain(Structure.regex("a{1000}")))
        assertEquals("<|im_end|>", certain(Structure.choice(listOf("<|im_end|>"))))
    }

    @Test
    fun `characters that tokens cut are followed byte by byte`() {
        val bytes = (0 until tokenizer.size).filter { tokenizer.tokenBytes(it).size == 1 }.associateBy { tokenizer.tokenBytes(it)[0] }
        fun allowed(structure: Structure, begun: List<Int>): Set<Int> = constraint(structure).use { matcher ->
            begun.forEach { matcher.accept(bytes.getValue(it.toByte())) }
            bytes.filterValues { matcher.allows(it) }.keys.map { it.toInt() and 0xFF }.toSet()
        }
        assertEquals((0xC2..0xF4).toSet(), allowed(Structure.regex("[^\\x00-\\x7F]"), listOf()))
        assertEquals((0xA0..0xBF).toSet(), allowed(Structure.regex("[^a]"), listOf(0xE0)))
        assertEquals((0x80..0x9F).toSet(), allowed(Structure.regex("[^a]"), listOf(0xED))) // no half of a surrogate pair
        assertEquals((0x90..0xBF).toSet(), allowed(Structure.regex("[^a]"), listOf(0xF0)))
        assertEquals((0x80..0x8F).toSet(), allowed(Structure.regex("[^a]"), listOf(0xF4)))
        assertEquals(setOf(0x99), allowed(Structure.regex("[🙂-🙃]"), listOf(0xF0, 0x9F)))
        assertEquals(setOf(0x82, 0x83), allowed(Structure.regex("[🙂-🙃]"), listOf(0xF0, 0x9F, 0x99)))
    }

    @Test
    fun `grammars that llama cpp would crash on or hang on are errors, or mean what they say`() {
        fun chain(count: Int, link: (Int) -> String) = (0 until count).joinToString("\n", transform = link) + "\nr$count ::= \"a\""
        val hostile = listOf(
            "root ::= root \"a\" | \"b\"", // left recursion
            "root ::= e root \"x\" | \"b\"\ne ::= f\nf ::= \"\"", // behind a rule that may be empty
            "root ::= \"a\"{5,3}", "root ::= [a-z]{1000000000000,}", "root ::= \"a\"{1,70000}", "root ::= [b-a]",
            "root ::= " + "(".repeat(20_000), "root ::= " + "(".repeat(20_000) + "\"a\"" + ")".repeat(20_000),
            "root ::= <think>", "root ::= missing", "start ::= \"a\"", "?", "root ::= \"a", "root ::= [a", "root ::= []",
            "root ::= \"\\xZZ\"", "root ::= \"a\"\nroot ::= \"b\"", "root ::= *", "root ::= \"a\u0000\"", "root ::= \"\ud800\"",
        )
        val taken = listOf(
            "root ::= (\"a\"?)*", "root ::= \"a\"{1,3000}", "root ::= ((\"a\"{2000} \"b\"){2000})",
            "root ::= r0\n" + chain(4000) { "r$it ::= r${it + 1}" },
            "root ::= r0\n" + chain(60) { "r$it ::= r${it + 1} | r${it + 1} \"b\"" },
            "root ::= \"" + "a".repeat(30_000) + "\"{2000}",
        )
        for (text in hostile + taken) {
            val started = System.nanoTime()
            try {
                constraint(Structure.grammar(text)).use { matcher ->
                    repeat(20) {
                        val logits = FloatArray(tokenizer.size) { id -> (id * 7919 % 1009).toFloat() }.also(matcher::mask)
                        val token = logits.indices.maxBy { logits[it] }
                        if (token !in tokenizer.stopIds && logits[token] > Constraint.MASKED) matcher.accept(token)
                    }
                }
                assertTrue("it is taken: ${text.take(40)}", text in taken)
            } catch (error: IllegalArgumentException) {
                assertTrue("${error.message}", error.message!!.length < 700)
            }
            assertTrue(text.take(40), System.nanoTime() - started < 20e9)
        }
    }

    @Test
    fun `schemas that refer to themselves without an end are errors, and many choices are none`() {
        val loop = Structure.schema("""{"${'$'}ref": "#"}""")
        assertThrows(IllegalArgumentException::class.java) { constraint(loop) }
        val deep = (0 until 1000).joinToString { """"$it": {"items": {"${'$'}ref": "#/${'$'}defs/${it + 1}"}}""" }
        val chain = Structure.schema("""{"${'$'}ref": "#/${'$'}defs/0", "${'$'}defs": {$deep, "1000": {}}}""")
        assertThrows(MimoException.Unsupported::class.java) { constraint(chain) }
        val many = (1..5000).map { "a$it" } + (1..200).map { "b".repeat(it) }
        constraint(Structure.choice(many)).use { assertTrue(keeps(it, "a4711")) }
        constraint(Structure.choice(many)).use { assertTrue(keeps(it, "b".repeat(117))) }
    }

    @Category(Sweep::class)
    @Test
    fun `no structure of a stranger overflows the stack or takes minutes to be read`() {
        val ref = "\"${'$'}ref\":\"#/${'$'}defs"
        fun fields(kind: String) = "abcdefgh".toList().joinToString { """"$it":{$ref/$kind"}""" }
        fun record(kind: String) =
            """"$kind":{"type":"object","required":["a","b","c","d","e","f","g","h"],"properties":{${fields(kind)}}}"""
        val many = (0 until 10_000).joinToString("") { (0x4E00 + 2 * it).toChar().toString() } // none beside another
        val name = "a".repeat(60_000)
        fun nested(leaf: String) = Structure.schema("{\"items\":".repeat(50) + leaf + "}".repeat(50))
        val pointers = List(50) { "{\"${'$'}ref\":\"#${"/items".repeat(it + 1)}\"}" }
        val wide = "{\"properties\":{${(0 until 4000).joinToString { "\"$it\":{}" }}},\"additionalProperties\":false}"
        val refused = listOf(
            Structure.grammar("root ::= \"a\"" + "*".repeat(60_000)), Structure.grammar("root ::= \"a\"" + "{1,2}".repeat(12_000)),
            Structure.regex("a" + "+".repeat(60_000)), Structure.schema("""{"properties": {"$name": {}}}"""),
            Structure.schema("""{"oneOf":[{$ref/A"},{$ref/B"}],"${'$'}defs":{${record("A")},${record("B")}}}"""),
            Structure.schema("""{"oneOf":[{$ref/A"},{}],"${'$'}defs":{"A":{"anyOf":[${List(9) { "{$ref/A\"}" }.joinToString()}]}}}"""),
            Structure.schema("""{"type": "integer", "minimum": null}"""),
            nested("{\"anyOf\":[${pointers.joinToString()}]}"),
            Structure.schema("""{"anyOf":[${pointers.joinToString()}],"items":${nested(wide).text}}"""),
        )
        for (structure in refused) {
            val error = assertTakes(structure) { assertThrows(Exception::class.java) { constraint(structure) } }
            assertTrue("${error.message}", error.message!!.length < 700)
        }
        fun required(count: Int): Structure {
            val names = (0 until count).joinToString { "\"$it\"" }
            return Structure.schema("""{"type": "object", "required": [$names]}""")
        }
        val bounds = """{"type":"number","minimum":-0.12345678901234567,"maximum":0.12345678901234566}"""
        val numbers = Structure.schema("""{"prefixItems":[${List(700) { bounds }.joinToString(",")}]}""")
        for (structure in listOf(required(8000), numbers)) {
            assertTakes(structure) { assertThrows(IllegalArgumentException::class.java) { constraint(structure) } }
        }
        assertTakes(required(2000)) { constraint(required(2000)).use { assertTrue(!keeps(it, "{\"0\": 1}")) } }
        for (structure in listOf(Structure.regex("[$many]"), Structure.regex("[" + "\\w\\W".repeat(8000) + "]"))) {
            assertTakes(structure) { constraint(structure).use { assertTrue(keeps(it, "\u4E02")) } }
        }
    }

    @Test
    fun `what was followed long ago takes no memory`() {
        val automaton = Automaton(GrammarReader.read("root ::= [ab]* \"a\" [ab]{40} \"c\"")) // hardly two states are the same
        val random = SplittableRandom(0)
        var state = automaton.start
        fun follow(count: Int) = repeat(count) {
            automaton.begin()
            state = checkNotNull(automaton.next(state, if (random.nextInt(2) == 0) 'a'.code else 'b'.code))
        }
        follow(100)
        val early = WeakReference(state)
        follow(12_000) // forgets twice
        System.gc()
        assertNull(early.get())
        assertNotNull(automaton.next(automaton.start, 'a'.code))
    }

    /** What did not end before takes seconds now; a minute is no fault of a machine with other work. */
    private fun <T> assertTakes(structure: Structure, work: () -> T): T {
        val started = System.nanoTime()
        return work().also { assertTrue(structure.text.take(40), System.nanoTime() - started < 60e9) }
    }

    companion object {
        private val tokenizer by lazy { TokenizerFile.read(File(nanoOnnx, "tokenizer.json")) }
        private val grammars by lazy { Grammars(tokenizer) }
    }
}
