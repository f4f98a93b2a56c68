package io.github.mimomobile.demo.math

import android.content.Context
import android.graphics.Canvas
import android.view.View
import io.github.mimomobile.demo.R
import kotlin.math.ceil

/** A formula on lines of its own. */
class MathView(context: Context) : View(context) {
    private var box: MathBox? = null

    fun show(source: String) {
        val pixels = SIZE_SP * resources.displayMetrics.density * resources.configuration.fontScale
        box = MathLayout.lay(MathParser.parse(source), pixels, context.getColor(R.color.on_surface), display = true)
        contentDescription = source
        requestLayout()
        invalidate()
    }

    override fun onMeasure(width: Int, height: Int) {
        val box = box
        val wide = paddingLeft + paddingRight + ceil(box?.width ?: 0f).toInt()
        val high = paddingTop + paddingBottom + ceil(box?.height ?: 0f).toInt()
        setMeasuredDimension(resolveSize(wide, width), resolveSize(high, height))
    }

    override fun onDraw(canvas: Canvas) {
        val box = box ?: return
        val free = width - paddingLeft - paddingRight - box.width
        box.draw(canvas, paddingLeft + maxOf(0f, free / 2), paddingTop + box.ascent)
    }

    private companion object {
        const val SIZE_SP = 18f
    }
}
