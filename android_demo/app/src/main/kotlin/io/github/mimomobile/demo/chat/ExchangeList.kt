package io.github.mimomobile.demo.chat

import android.content.Context
import android.util.AttributeSet
import android.view.View
import android.widget.FrameLayout
import android.widget.LinearLayout
import io.github.mimomobile.demo.ui.dp

/** An exchange, and what can be done with it now. */
class ExchangeItem(val exchange: Exchange, val unfolded: Boolean, val actions: ExchangeActions)

/**
 * The exchanges of a conversation. Only those near the visible part have views; the others have the height that theirs had,
 * or about the one that theirs will have.
 */
class ExchangeList(context: Context, attributes: AttributeSet?) : LinearLayout(context, attributes) {
    private inner class Slot : FrameLayout(context) {
        var content: ExchangeView? = null

        /** As long as there is no view. */
        fun reserve(height: Int) {
            layoutParams.height = height
            requestLayout()
        }
    }

    private var items = emptyList<ExchangeItem>()
    private var seen = 0..0

    /** Makes the view of an exchange. */
    var create: (FrameLayout) -> ExchangeView = { throw IllegalStateException("create is not set") }

    init {
        orientation = VERTICAL
    }

    fun show(new: List<ExchangeItem>) {
        items = new
        while (childCount > new.size) removeViewAt(childCount - 1)
        while (childCount < new.size) {
            val slot = Slot()
            addView(slot, LayoutParams(LayoutParams.MATCH_PARENT, about(new[childCount].exchange)))
            // What was asked last is looked at.
            if (childCount == new.size) fill(slot)
        }
        for (index in new.indices) slot(index).content?.let { render(it, new[index]) }
    }

    /** Tells what part is visible, in pixels of this view, so that it and a screen on both sides get their views. */
    fun see(top: Int, bottom: Int) {
        seen = top..bottom
        val screen = bottom - top
        for (index in 0 until childCount) {
            val slot = slot(index)
            val distance = maxOf(top - slot.bottom, slot.top - bottom)
            if (slot.content == null && distance < screen) fill(slot)
            if (slot.content != null && distance > FAR * screen && index < childCount - 1) empty(slot)
        }
    }

    /** The first exchange that is visible when [top] is the first pixel of this view that is. */
    fun firstBelow(top: Int): View? = (0 until childCount).map(::getChildAt).firstOrNull { it.bottom > top }

    private fun slot(index: Int) = getChildAt(index) as Slot

    private fun fill(slot: Slot) {
        val view = create(slot)
        slot.content = view
        slot.addView(view.view)
        slot.reserve(LayoutParams.WRAP_CONTENT)
        render(view, items[indexOfChild(slot)])
    }

    private fun empty(slot: Slot) {
        slot.reserve(slot.height)
        slot.removeAllViews()
        slot.content = null
    }

    private fun render(view: ExchangeView, item: ExchangeItem) = view.render(item.exchange, item.unfolded, item.actions)

    /** A guess: a line has some forty letters. */
    private fun about(exchange: Exchange): Int {
        val lines = (exchange.question.length + exchange.answer.text.length) / LINE_LETTERS
        return context.dp(AROUND_DP + lines * LINE_DP)
    }

    private companion object {
        const val FAR = 3
        const val LINE_LETTERS = 40
        const val LINE_DP = 22
        const val AROUND_DP = 200
    }
}
