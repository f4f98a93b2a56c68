package io.github.mimomobile.demo.ui

import android.content.Context
import android.util.AttributeSet
import android.widget.LinearLayout
import android.widget.TextView
import io.github.mimomobile.demo.Problem
import io.github.mimomobile.demo.R

/** Says what went wrong, what to do, and the exact message; one button offers the way out. */
class ProblemCard(context: Context, attributes: AttributeSet?) : LinearLayout(context, attributes) {
    init {
        orientation = VERTICAL
        setBackgroundResource(R.drawable.card_error)
        val space = context.dp(20)
        setPadding(space, space, space, context.dp(8))
        inflate(context, R.layout.problem_card, this)
        accessibilityLiveRegion = ACCESSIBILITY_LIVE_REGION_POLITE
    }

    /** Shows [problem], or hides the card. */
    fun render(problem: Problem?, action: Int = 0, act: () -> Unit = {}) {
        shown = problem != null
        if (problem == null) return
        findViewById<TextView>(R.id.problem_title).setText(problem.kind.title)
        findViewById<TextView>(R.id.problem_advice).setText(problem.kind.advice)
        findViewById<TextView>(R.id.problem_detail).show(problem.detail)
        val button = findViewById<TextView>(R.id.problem_action)
        button.shown = action != 0
        if (action != 0) button.setText(action)
        button.setOnClickListener { act() }
    }
}
