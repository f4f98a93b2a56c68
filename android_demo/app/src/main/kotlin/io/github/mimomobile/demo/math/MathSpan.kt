package io.github.mimomobile.demo.math

import android.graphics.Canvas
import android.graphics.Paint
import android.text.style.ReplacementSpan
import kotlin.math.ceil

/**
 * A formula in a line of text; the text below it is its LaTeX, for the clipboard and for screen readers.
 *
 * @param mostWidth Of a line: a wider formula is drawn smaller, as it cannot be broken.
 */
internal class MathSpan(source: String, private val mostWidth: Int) : ReplacementSpan() {
    private val node = MathParser.parse(source)
    private var laid: Pair<Any, MathBox>? = null

    private fun box(paint: Paint): MathBox {
        val key = paint.textSize to paint.color
        laid?.let { if (it.first == key) return it.second }
        val box = MathLayout.lay(node, paint.textSize * SIZE, paint.color, display = false)
        val fitting = if (box.width <= mostWidth) box else {
            MathLayout.lay(node, paint.textSize * SIZE * mostWidth / box.width, paint.color, display = false)
        }
        laid = key to fitting
        return fitting
    }

    override fun getSize(paint: Paint, text: CharSequence, start: Int, end: Int, metrics: Paint.FontMetricsInt?): Int {
        val box = box(paint)
        if (metrics != null) {
            metrics.ascent = minOf(metrics.ascent, -ceil(box.ascent).toInt() - 1)
            metrics.descent = maxOf(metrics.descent, ceil(box.descent).toInt() + 1)
            metrics.top = minOf(metrics.top, metrics.ascent)
            metrics.bottom = maxOf(metrics.bottom, metrics.descent)
        }
        return ceil(box.width).toInt()
    }

    override fun draw(
        canvas: Canvas, text: CharSequence, start: Int, end: Int, x: Float, top: Int, baseline: Int, bottom: Int, paint: Paint,
    ) = box(paint).draw(canvas, x, baseline.toFloat())

    private companion object {
        /** Beside text without serifs, letters with them look small. */
        const val SIZE = 1.08f
    }
}
