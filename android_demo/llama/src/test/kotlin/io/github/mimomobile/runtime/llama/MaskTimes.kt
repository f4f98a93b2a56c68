package io.github.mimomobile.runtime.llama

import io.github.mimomobile.runtime.Structure
import io.github.mimomobile.runtime.Tool
import io.github.mimomobile.runtime.decode.Constraint
import io.github.mimomobile.runtime.grammar.CallGrammar
import io.github.mimomobile.runtime.grammar.Grammars
import io.github.mimomobile.runtime.text.TokenizerFile
import java.io.File
import java.util.SplittableRandom

/**
 * How long a token takes under a grammar, by our automaton and by llama.cpp's sampler, in turns: docs/performance.md.
 *
 * Texts are what random numbers choose among the tokens that may come, as benchmarks/structures.py has them. Its arguments
 * are a tokenizer.json and a GGUF file with the same vocabulary, of which nothing else is read.
 */
internal object MaskTimes {
    private const val TOKENS = 120
    private const val RECORD = """{"type": "object", "properties": {"name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0, "maximum": 150}, "born": {"type": "string", "format": "date"},
        "friends": {"type": "array", "items": {"${'$'}ref": "#"}, "maxItems": 3}, "kind": {"enum": ["human", "robot", "unknown"]}},
        "required": ["name", "age", "friends"], "additionalProperties": false}"""

    @JvmStatic
    fun main(arguments: Array<String>) {
        val tokenizer = TokenizerFile.read(File(arguments[0]))
        val grammars = Grammars(tokenizer)
        val params = Libllama.api.llama_model_default_params().apply { vocab_only = 1 }
        val model = checkNotNull(Libllama.api.llama_model_load_from_file(arguments[1], params))
        val vocab = Libllama.api.llama_model_get_vocab(model)
        val first = timed { grammars.matcher(Structure.choice(listOf("yes", "no"))).mask(FloatArray(tokenizer.size)) }
        println("${tokenizer.size} tokens: ${first / 1_000_000} ms for the first structure of a model")
        val tools = List(3) { Tool("""{"type": "function", "function": {"name": "tool_$it", "parameters": $RECORD}}""") }
        val structures = mapOf(
            "any JSON object" to grammars.gbnf(Structure.schema("""{"type": "object"}""")),
            "a record" to grammars.gbnf(Structure.schema(RECORD)),
            "calls of 3 tools" to CallGrammar.of(tools, atOnce = true, several = true),
            "a regex" to grammars.gbnf(Structure.regex("""[A-Z][a-z]+( [a-z]+)*\.""")),
            "a regex of letters" to grammars.gbnf(Structure.regex("""\w+( \w+)*\.""")),
            "a string of 100" to grammars.gbnf(Structure.schema("""{"type": "string", "maxLength": 100}""")),
        )
        for ((name, text) in structures) {
            val compiled = timed { grammars.matcher(Structure.grammar(text)) }
            val ours = mutableListOf<Long>()
            val theirs = mutableListOf<Long>()
            val random = SplittableRandom(0)
            while (ours.size < TOKENS) {
                val matcher = grammars.matcher(Structure.grammar(text))
                LlamaSampler(vocab, text, tokenizer.size).use { sampler ->
                    while (ours.size < TOKENS) {
                        val logits = FloatArray(tokenizer.size) { random.nextDouble().toFloat() }
                        var spent = timed { matcher.mask(logits) }
                        val known = timed { sampler.allowed() }
                        val token = logits.indices.maxBy { logits[it] }
                        if (token in tokenizer.stopIds || logits[token] == Constraint.MASKED) break
                        spent += timed { matcher.accept(token) }
                        ours += spent + timed { matcher.certain() }
                        theirs += known + timed { sampler.accept(token) }
                        if (matcher.over) break
                    }
                }
            }
            println("$name: compiled ${ms(compiled)}; ours ${told(ours)}; llama.cpp ${told(theirs)}; ratio %.1f".format(theirs.average() / ours.average()))
        }
        Libllama.api.llama_model_free(model)
    }

    private inline fun timed(work: () -> Unit): Long {
        val started = System.nanoTime()
        work()
        return System.nanoTime() - started
    }

    private fun ms(nanoseconds: Long) = "%.2f ms".format(nanoseconds / 1e6)

    private fun told(times: List<Long>) = "${ms(times.average().toLong())}, median ${ms(times.sorted()[times.size / 2])}, most ${ms(times.max())}"
}
