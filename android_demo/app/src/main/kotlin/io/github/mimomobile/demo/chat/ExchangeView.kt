package io.github.mimomobile.demo.chat

import android.content.Context
import android.view.LayoutInflater
import android.view.View
import android.view.ViewGroup
import android.widget.LinearLayout
import android.widget.TextView
import io.github.mimomobile.demo.Problem
import io.github.mimomobile.demo.R
import io.github.mimomobile.demo.ui.ProblemCard
import io.github.mimomobile.demo.ui.SEPARATOR
import io.github.mimomobile.demo.ui.copyText
import io.github.mimomobile.demo.ui.show
import io.github.mimomobile.demo.ui.shown
import io.github.mimomobile.demo.ui.speed

/**
 * What can be done with an exchange now: [again] asks the question once more, [edit] changes it, [goOn] has a cut answer go
 * on; null for what cannot be done.
 */
class ExchangeActions(
    val again: (() -> Unit)? = null,
    val edit: (() -> Unit)? = null,
    val goOn: (() -> Unit)? = null,
)

/** A question and its answer on the screen; renders only what changed. */
class ExchangeView(parent: ViewGroup, private val toggle: () -> Unit, private val solve: (Problem.Kind) -> Unit) {
    private val context: Context = parent.context
    val view: View = LayoutInflater.from(context).inflate(R.layout.item_exchange, parent, false)

    private val question = view.findViewById<TextView>(R.id.question)
    private val thinkingToggle = view.findViewById<TextView>(R.id.thinking_toggle)
    private val thinking = view.findViewById<TextView>(R.id.thinking)
    private val waiting = view.findViewById<LinearLayout>(R.id.waiting)
    private val answerView = view.findViewById<AnswerView>(R.id.answer_blocks)
    private val note = view.findViewById<TextView>(R.id.note)
    private val problem = view.findViewById<ProblemCard>(R.id.problem)
    private val actionRow = view.findViewById<View>(R.id.actions)
    private val regenerate = view.findViewById<View>(R.id.regenerate)
    private val stats = view.findViewById<TextView>(R.id.stats)
    private var rendered: List<Any>? = null

    init {
        view.isSaveFromParentEnabled = false // its ids are those of all exchanges
        thinkingToggle.setOnClickListener { toggle() }
    }

    fun render(exchange: Exchange, unfolded: Boolean, actions: ExchangeActions) {
        val wanted = listOf(exchange, unfolded, actions.again != null, actions.edit != null, actions.goOn != null)
        if (wanted == rendered) return
        rendered = wanted
        val answer = exchange.answer
        val streaming = answer.state == AnswerState.STREAMING
        question.show(exchange.question)
        renderThinking(answer, unfolded)
        waiting.shown = streaming && answer.tokens == 0
        answerView.show(answer.text)
        answerView.shown = answer.text.isNotEmpty()
        note.show(noteOf(answer))
        problem.render(answer.problem, answer.problem?.kind?.let(::solution) ?: 0) {
            answer.problem?.let { solve(it.kind) }
        }
        actionRow.shown = !streaming
        view.findViewById<View>(R.id.copy).apply {
            shown = answer.text.isNotEmpty()
            setOnClickListener { context.copyText(answer.text) }
        }
        offer(regenerate, actions.again)
        offer(view.findViewById(R.id.edit), actions.edit)
        offer(view.findViewById(R.id.go_on), actions.goOn)
        stats.show(statsOf(answer))
    }

    private fun offer(button: View, action: (() -> Unit)?) {
        button.shown = action != null
        button.setOnClickListener { action?.invoke() }
    }

    private fun renderThinking(answer: Answer, unfolded: Boolean) {
        val count = answer.thinkingTokens
        val title = if (answer.thinks) R.plurals.thinking else R.plurals.thought
        thinkingToggle.show(if (count > 0) context.resources.getQuantityString(title, count, count) else null)
        val chevron = if (unfolded) R.drawable.ic_up else R.drawable.ic_down
        thinkingToggle.setCompoundDrawablesRelativeWithIntrinsicBounds(0, 0, chevron, 0)
        val action = context.getString(if (unfolded) R.string.fold_thinking else R.string.unfold_thinking)
        thinkingToggle.contentDescription = "${thinkingToggle.text}. $action"
        thinking.shown = unfolded && answer.thinking.isNotEmpty()
        if (!thinking.shown) return
        val old = thinking.text
        val new = answer.thinking
        // A text that grows is appended to: it may have 30,000 tokens.
        if (old.isNotEmpty() && new.startsWith(old.toString())) {
            if (new.length > old.length) thinking.append(new, old.length, new.length)
        } else {
            thinking.text = new
        }
    }

    private fun noteOf(answer: Answer): String? = when (answer.state) {
        AnswerState.LENGTH -> context.getString(R.string.note_length)
        AnswerState.FULL -> context.getString(R.string.note_full)
        AnswerState.STOPPED -> context.getString(R.string.note_stopped)
        AnswerState.INTERRUPTED -> context.getString(R.string.note_interrupted)
        else -> null
    }

    private fun statsOf(answer: Answer): String? {
        val stats = answer.stats ?: return null
        val tokens = context.resources.getQuantityString(R.plurals.tokens, stats.generatedTokens, stats.generatedTokens)
        return listOfNotNull(tokens, context.speed(stats.decodeTps)).joinToString(SEPARATOR)
    }
}

/** What the button of a problem's card does; 0 for none. */
fun solution(kind: Problem.Kind): Int = when (kind) {
    Problem.Kind.CONTEXT -> R.string.new_chat
    Problem.Kind.PROVIDER -> R.string.settings_title
    Problem.Kind.STATE, Problem.Kind.INFERENCE -> R.string.try_again
    else -> R.string.models_title
}
