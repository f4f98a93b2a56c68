package io.github.mimomobile.runtime.decode

import io.github.mimomobile.runtime.Channel
import io.github.mimomobile.runtime.GenerationConfig
import io.github.mimomobile.runtime.GenerationEvent.Token
import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.Notice
import io.github.mimomobile.runtime.text.ChatTemplate
import io.github.mimomobile.runtime.text.Detokenizer
import io.github.mimomobile.runtime.text.LoopGuard
import io.github.mimomobile.runtime.text.Piece
import io.github.mimomobile.runtime.text.StopStrings
import io.github.mimomobile.runtime.text.ThinkingSplitter
import io.github.mimomobile.runtime.text.Tokenizer
import io.github.mimomobile.runtime.text.ToolCalls

/**
 * One generation under way: random numbers, held-back text, thinking. Knows logits and text, no backend.
 *
 * @param prompt The ids before it.
 * @param room So many more tokens fit into the context.
 * @param structured What restricts the answer, if anything does.
 * @param uniforms Gives the random numbers, each from 0 to below 1.
 */
internal class Generation(
    private val tokenizer: Tokenizer,
    val config: GenerationConfig,
    private val splitter: ThinkingSplitter,
    prompt: IntArray = IntArray(0),
    room: Int = Int.MAX_VALUE,
    private val structured: StructuredAnswer? = null,
    private val uniforms: () -> Double,
) {
    /** Thinking and answer together have so many tokens at the most. */
    val mostTokens: Int = config.mostTokens(room)
    private val budget = config.mostThinking(room)
    private val guard = LoopGuard()
    private var notice: Notice? = null
    private val penalties = Penalties(config, prompt, tokenizer.size)
    private val sampler = Sampler(config.temperature, config.topK, config.topP, config.minP)
    private val detokenizer = Detokenizer()
    private val stops = StopStrings(config.stop)
    private val calls = config.callableTools.map { it.name }.ifEmpty { null }?.let { ToolCalls(it.toSet()) }
    private val forced = ArrayDeque<Int>()
    private var uniform: Double? = null
    private var closed = false

    /** Tokens so far. */
    var count: Int = 0
        private set

    /** Whether a stop string was met, or nothing can follow a structured answer. */
    val stopped: Boolean get() = stops.stopped || structured?.over == true

    /**
     * The next token, sampled or forced; [END] at the end of the turn. Penalties change [logits].
     *
     * @throws NotFinite The logits are NaN or infinite.
     */
    fun next(logits: FloatArray): Int {
        if (thinks && !closed) {
            val spent = budget != null && count >= budget
            if (spent || guard.found) {
                notice = if (spent) null else Notice.LOOP_CLOSED
                closeThinking()
            }
        }
        if (structured != null && forced.isEmpty()) forced.addAll(structured.forced().asList())
        var token = forced.removeFirstOrNull() ?: sampled(logits)
        if (token == END && structured?.thinking == true) {
            closeThinking() // the turn would end there, and the answer is still to come
            token = forced.removeFirst()
        }
        if (token == END) return END
        penalties.accept(token)
        structured?.accept(token)
        return token
    }

    private val thinks: Boolean
        get() = structured?.thinking ?: (splitter.state == ThinkingSplitter.State.THINKING)

    private fun closeThinking() {
        closed = true
        forced.addAll(tokenizer.encode(ChatTemplate.CLOSE_THINKING).asList())
    }

    private fun sampled(logits: FloatArray): Int {
        penalties.apply(logits)
        restrict(logits)
        val token = sampler.sample(logits, tokenizer.size, nextUniform())
        uniform = null
        return if (token in tokenizer.stopIds && !config.ignoreEnd) END else token
    }

    /**
     * Which of [logits], which are those of [ids], the next token would be if these were its logits: by the random number
     * it will have. Penalties change them.
     *
     * Token and guess come of one random number, so that they agree as often as their distributions overlap, about,
     * while the tokens themselves are those of a generation that guesses nothing.
     *
     * @throws NotFinite The logits are NaN or infinite.
     */
    fun guess(logits: FloatArray, ids: IntArray): Int {
        penalties.apply(logits, ids)
        if (structured != null) {
            val whole = FloatArray(tokenizer.size) { Constraint.MASKED }
            for ((index, id) in ids.withIndex()) if (id < whole.size) whole[id] = logits[index]
            structured.mask(whole)
            // Where none of them may come, the draft is wrong in any case.
            if (ids.any { it < whole.size && whole[it] > Constraint.MASKED }) {
                for ((index, id) in ids.withIndex()) logits[index] = if (id < whole.size) whole[id] else Constraint.MASKED
            }
        }
        return sampler.sample(logits, logits.size, nextUniform())
    }

    /** Tokens that come next, or most likely do, because the structure forces the text. */
    fun certain(): IntArray = when {
        structured == null -> IntArray(0) // the few that close a thinking are drafted as any other
        forced.isNotEmpty() -> forced.toIntArray()
        else -> structured.certain()
    }

    /** Leaves only the tokens that may come. */
    private fun restrict(logits: FloatArray) {
        if (structured == null) return
        for (id in 0 until tokenizer.size) if (!logits[id].isFinite()) throw NotFinite()
        structured.mask(logits)
        if ((0 until tokenizer.size).all { logits[it] == Constraint.MASKED }) {
            throw MimoException.Inference("no token of the model goes on with the structure of the answer; simplify it")
        }
    }

    /** The events of one token: one, or several when it ends the thinking and begins the answer, or completes a call. */
    fun accept(token: Int): List<Token> {
        count++
        val text = stops.feed(detokenizer.feed(tokenizer.tokenBytes(token)))
        val pieces = splitter.feed(text).ifEmpty { listOf(Piece(splitter.channel, "")) }
        if (config.loopGuard) pieces.forEach { if (it.channel == Channel.THINKING) guard.feed(it.text) }
        val told = notice.also { notice = null }
        val events = pieces.flatMap(::events).ifEmpty { listOf(Token("", splitter.channel, null)) }
        return events.mapIndexed { index, event -> if (index == 0) event.copy(tokenId = token, notice = told) else event }
    }

    /** A piece of text, and in the answer the calls in it. */
    private fun events(piece: Piece): List<Token> {
        if (piece.channel == Channel.THINKING || calls == null) return listOf(Token(piece.text, piece.channel, null))
        return calls.feed(piece.text).map { Token(it.text, piece.channel, null, toolCall = it.call) }
    }

    /** What was held back, at the end. */
    fun end(): List<Token> {
        val text = stops.feed(detokenizer.flush()) + stops.flush()
        val events = (splitter.feed(text) + splitter.flush()).flatMap(::events)
        val cutOff = calls?.flush().orEmpty()
        return if (cutOff.isEmpty()) events else events + Token(cutOff, Channel.ANSWER, null)
    }

    private fun nextUniform(): Double = uniform ?: uniforms().also { uniform = it }

    companion object {
        /** No token: the model ended its turn. */
        const val END: Int = -1
    }
}
