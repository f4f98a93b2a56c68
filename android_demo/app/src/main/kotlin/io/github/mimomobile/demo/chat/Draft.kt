package io.github.mimomobile.demo.chat

import io.github.mimomobile.demo.Problem
import io.github.mimomobile.demo.Throttle
import io.github.mimomobile.runtime.Channel
import io.github.mimomobile.runtime.GenerationEvent
import io.github.mimomobile.runtime.GenerationStats
import io.github.mimomobile.runtime.Notice

/** An answer as it comes, after what is there of it [before]: gathers tokens and tells [publish] at most fifty times a second. */
internal class Draft(private val before: Answer, private val publish: (Draft) -> Unit) {
    private val thinking = StringBuilder(before.thinking)
    private val text = StringBuilder(before.text)
    private val shown = Throttle(SHOW_NS)
    private val saved = Throttle(SAVE_NS)
    private var thinkingTokens = 0
    private var firstNs = 0L
    private var state = AnswerState.STREAMING
    private var stats: GenerationStats? = null
    private var problem: Problem? = null

    var promptTokens: Int? = null

    /** Of this run so far, thinking and answer. */
    var tokens = 0
        private set

    init {
        saved.due()
    }

    /** Takes a token; true when it is time for the disk. */
    fun add(token: GenerationEvent.Token): Boolean {
        if (token.tokenId != null) {
            if (tokens++ == 0) firstNs = System.nanoTime()
            if (token.channel == Channel.THINKING) thinkingTokens++
        }
        (if (token.channel == Channel.THINKING) thinking else text).append(token.text)
        if (shown.due()) publish(this)
        return saved.due()
    }

    fun finish(event: GenerationEvent.Finished) {
        stats = event.stats
        end(if (event.notice == Notice.CONTEXT_FULL) AnswerState.FULL else event.reason.answerState())
    }

    fun fail(with: Problem) {
        problem = with
        end(AnswerState.FAILED)
    }

    /** The first reason counts. */
    fun end(with: AnswerState) {
        if (state == AnswerState.STREAMING) state = with
        publish(this)
    }

    fun answer() = Answer(
        thinking.toString(), text.toString(), before.thinkingTokens + thinkingTokens, before.tokens + tokens, state, stats, problem,
    )

    fun liveTps(): Double? {
        val seconds = (System.nanoTime() - firstNs) / 1e9
        return if (tokens > 1 && seconds > 0) (tokens - 1) / seconds else null
    }

    private companion object {
        const val SHOW_NS = 20_000_000L
        const val SAVE_NS = 2_000_000_000L
    }
}
