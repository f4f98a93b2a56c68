package io.github.mimomobile.demo.chat

import android.content.Context
import android.graphics.Typeface
import android.util.AttributeSet
import android.view.LayoutInflater
import android.view.View
import android.view.ViewGroup
import android.widget.HorizontalScrollView
import android.widget.LinearLayout
import android.widget.TableLayout
import android.widget.TableRow
import android.widget.TextView
import io.github.mimomobile.demo.R
import io.github.mimomobile.demo.math.MathView
import io.github.mimomobile.demo.ui.copyText
import io.github.mimomobile.demo.ui.dp

/** An answer as it grows: each part has a view of its own, and only the one that changed is set again. */
class AnswerView(context: Context, attributes: AttributeSet?) : LinearLayout(context, attributes) {
    private var blocks = emptyList<Block>()

    /** About what a line has: formulas in it must fit. */
    private val mostWidth = resources.displayMetrics.widthPixels - 2 * resources.getDimensionPixelSize(R.dimen.side)

    init {
        orientation = VERTICAL
    }

    fun show(text: String) {
        val new = blocksOf(text)
        val same = blocks.zip(new).takeWhile { (old, now) -> old == now }.size
        val kept = if (blocks.getOrNull(same)?.javaClass == new.getOrNull(same)?.javaClass) same + 1 else same
        while (childCount > minOf(kept, new.size)) removeViewAt(childCount - 1)
        new.drop(same).forEachIndexed { index, block -> fill(getChildAt(same + index) ?: add(block), block) }
        blocks = new
    }

    private fun add(block: Block): View {
        val view = when (block) {
            is Block.Prose -> text(R.style.Text).apply { id = R.id.answer }
            is Block.Code -> LayoutInflater.from(context).inflate(R.layout.item_code, this, false)
            is Block.Formula -> scrolling(MathView(context).apply { setPadding(0, context.dp(4), 0, context.dp(4)) })
            is Block.Table -> scrolling(TableLayout(context))
        }
        val space = LayoutParams(LayoutParams.MATCH_PARENT, LayoutParams.WRAP_CONTENT)
        if (childCount > 0) space.topMargin = context.dp(12)
        addView(view, space)
        return view
    }

    private fun fill(view: View, block: Block) {
        when (block) {
            is Block.Prose -> (view as TextView).text = styled(block.text, mostWidth)
            is Block.Code -> {
                view.findViewById<TextView>(R.id.answer).text = highlighted(context, block.text, block.language)
                view.findViewById<TextView>(R.id.code_language).text = block.language
                view.findViewById<View>(R.id.code_copy).setOnClickListener { context.copyText(block.text) }
            }
            is Block.Formula -> ((view as ViewGroup).getChildAt(0) as MathView).show(block.text)
            is Block.Table -> fill((view as ViewGroup).getChildAt(0) as TableLayout, block)
        }
    }

    private fun fill(table: TableLayout, block: Block.Table) {
        table.removeAllViews()
        block.rows.forEachIndexed { index, cells ->
            val row = TableRow(context)
            row.setBackgroundResource(if (index == 0) R.drawable.table_head else R.drawable.table_row)
            for (cell in cells) {
                val text = text(R.style.Text)
                text.text = styled(cell, mostWidth)
                text.textSize = CELL_SP
                text.maxWidth = mostWidth * 2 / 3
                text.setPadding(context.dp(12), context.dp(8), context.dp(12), context.dp(8))
                if (index == 0) text.typeface = Typeface.DEFAULT_BOLD
                row.addView(text)
            }
            table.addView(row)
        }
    }

    private fun text(style: Int) = TextView(context, null, 0, style).apply {
        setTextIsSelectable(true)
        isClickable = false // a tap does nothing
    }

    /** What is wider than the screen is moved with a finger. */
    private fun scrolling(view: View) = HorizontalScrollView(context).apply {
        isHorizontalScrollBarEnabled = false
        isFillViewport = view is MathView // short ones are in the middle
        layoutDirection = LAYOUT_DIRECTION_LTR // formulas are, in every language
        addView(view)
    }

    private companion object {
        const val CELL_SP = 15f
    }
}
