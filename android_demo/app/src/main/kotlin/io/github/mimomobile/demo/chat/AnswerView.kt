package io.github.mimomobile.demo.chat

import android.content.Context
import android.graphics.Typeface
import android.util.AttributeSet
import android.view.View
import android.widget.HorizontalScrollView
import android.widget.LinearLayout
import android.widget.TextView
import io.github.mimomobile.demo.R
import io.github.mimomobile.demo.ui.dp

/** An answer as it grows: prose and code, each a view of its own; only the one that changed is set again. */
class AnswerView(context: Context, attributes: AttributeSet?) : LinearLayout(context, attributes) {
    private var blocks = emptyList<Block>()

    init {
        orientation = VERTICAL
    }

    fun show(text: String) {
        val new = blocksOf(text)
        val same = blocks.zip(new).takeWhile { (old, now) -> old == now }.size
        val kept = if (blocks.getOrNull(same)?.javaClass == new.getOrNull(same)?.javaClass) same + 1 else same
        while (childCount > minOf(kept, new.size)) removeViewAt(childCount - 1)
        new.drop(same).forEachIndexed { index, block ->
            val view = getChildAt(same + index) ?: add(block)
            text(view).text = if (block is Block.Prose) styled(block.text) else block.text
        }
        blocks = new
    }

    private fun add(block: Block): View {
        val text = TextView(context, null, 0, R.style.Text)
        text.id = R.id.answer
        text.setTextIsSelectable(true)
        text.isClickable = false // a tap does nothing
        val view: View = if (block is Block.Prose) text else scrolling(text)
        val space = LayoutParams(LayoutParams.MATCH_PARENT, LayoutParams.WRAP_CONTENT)
        if (childCount > 0) space.topMargin = context.dp(12)
        addView(view, space)
        return view
    }

    private fun scrolling(text: TextView): View {
        val space = context.dp(16)
        text.typeface = Typeface.MONOSPACE
        text.textSize = CODE_SP
        text.setPadding(space, space, space, space)
        return HorizontalScrollView(context).apply {
            setBackgroundResource(R.drawable.code)
            isHorizontalScrollBarEnabled = false
            layoutDirection = LAYOUT_DIRECTION_LTR // code is, in every language
            addView(text)
        }
    }

    private fun text(view: View): TextView = view.findViewById(R.id.answer)

    private companion object {
        const val CODE_SP = 14f
    }
}
