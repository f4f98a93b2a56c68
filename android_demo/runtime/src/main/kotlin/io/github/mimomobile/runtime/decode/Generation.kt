package io.github.mimomobile.runtime.decode

import io.github.mimomobile.runtime.Channel
import io.github.mimomobile.runtime.GenerationConfig
import io.github.mimomobile.runtime.GenerationEvent.Token
import io.github.mimomobile.runtime.Notice
import io.github.mimomobile.runtime.text.ChatTemplate
import io.github.mimomobile.runtime.text.Detokenizer
import io.github.mimomobile.runtime.text.LoopGuard
import io.github.mimomobile.runtime.text.Piece
import io.github.mimomobile.runtime.text.StopStrings
import io.github.mimomobile.runtime.text.ThinkingSplitter
import io.github.mimomobile.runtime.text.Tokenizer

/**
 * One generation under way: random numbers, held-back text, thinking. Knows logits and text, no backend.
 *
 * @param prompt The ids before it.
 * @param room So many more tokens fit into the context.
 * @param uniforms Gives the random numbers, each from 0 to below 1.
 */
internal class Generation(
    private val tokenizer: Tokenizer,
    val config: GenerationConfig,
    private val splitter: ThinkingSplitter,
    prompt: IntArray = IntArray(0),
    room: Int = Int.MAX_VALUE,
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
    private val forced = ArrayDeque<Int>()
    private var uniform: Double? = null
    private var closed = false

    /** Tokens so far. */
    var count: Int = 0
        private set

    /** Whether a stop string was met. */
    val stopped: Boolean get() = stops.stopped

    /**
     * The next token, sampled or forced; [END] at the end of the turn. Penalties change [logits].
     *
     * @throws NotFinite The logits are NaN or infinite.
     */
    fun next(logits: FloatArray): Int {
        if (splitter.state == ThinkingSplitter.State.THINKING && !closed) {
            val spent = budget != null && count >= budget
            if (spent || guard.found) {
                closed = true
                notice = if (spent) null else Notice.LOOP_CLOSED
                forced.addAll(tokenizer.encode(ChatTemplate.CLOSE_THINKING).asList())
            }
        }
        val token = forced.removeFirstOrNull() ?: sampled(logits)
        if (token != END) penalties.accept(token)
        return token
    }

    private fun sampled(logits: FloatArray): Int {
        penalties.apply(logits)
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
        return sampler.sample(logits, logits.size, nextUniform())
    }

    /** The events of one token: one, or two when it ends the thinking and begins the answer. */
    fun accept(token: Int): List<Token> {
        count++
        val text = stops.feed(detokenizer.feed(tokenizer.tokenBytes(token)))
        val pieces = splitter.feed(text).ifEmpty { listOf(Piece(splitter.channel, "")) }
        if (config.loopGuard) pieces.forEach { if (it.channel == Channel.THINKING) guard.feed(it.text) }
        val told = notice.also { notice = null }
        return pieces.mapIndexed { index, piece ->
            if (index == 0) Token(piece.text, piece.channel, token, told) else Token(piece.text, piece.channel, null)
        }
    }

    /** What was held back, at the end. */
    fun end(): List<Token> {
        val text = stops.feed(detokenizer.flush()) + stops.flush()
        return (splitter.feed(text) + splitter.flush()).map { Token(it.text, it.channel, null) }
    }

    private fun nextUniform(): Double = uniform ?: uniforms().also { uniform = it }

    companion object {
        /** No token: the model ended its turn. */
        const val END: Int = -1
    }
}
