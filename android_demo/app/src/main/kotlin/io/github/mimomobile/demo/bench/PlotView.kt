package io.github.mimomobile.demo.bench

import android.content.Context
import android.graphics.Canvas
import android.graphics.Paint
import android.util.AttributeSet
import android.util.TypedValue
import android.view.View
import io.github.mimomobile.demo.R
import io.github.mimomobile.demo.ui.dp
import kotlin.math.ceil
import kotlin.math.floor
import kotlin.math.log10
import kotlin.math.pow

/** Three plots over the rounds: prefill and decode as bars, the battery's temperature as a line. */
class PlotView(context: Context, attributes: AttributeSet?) : View(context, attributes) {
    private class Plot(val title: String, val color: Int, val values: List<Double?>, val line: Boolean)

    private val text = Paint(Paint.ANTI_ALIAS_FLAG).apply { textSize = sp(12f) }
    private val paint = Paint(Paint.ANTI_ALIAS_FLAG)
    private val lineHeight get() = text.fontSpacing
    private var rounds = emptyList<Round>()
    private var plots = emptyList<Plot>()

    fun show(rounds: List<Round>) {
        this.rounds = rounds
        val decode = rounds.map { it.decodeTps }
        val temperature = rounds.map { it.batteryTemperatureC }
        plots = listOfNotNull(
            Plot(context.getString(R.string.plot_prefill), R.color.second, rounds.map { it.prefillTps }, false),
            Plot(context.getString(R.string.plot_decode), R.color.accent, decode, false),
            Plot(context.getString(R.string.plot_temperature), R.color.error, temperature, true)
                .takeIf { temperature.any { it != null } },
        )
        contentDescription = plots.joinToString(". ") { plot ->
            val values = plot.values.zip(rounds).joinToString("; ") { (value, round) ->
                context.getString(R.string.plot_value, round.depth, value?.let(::number) ?: "–")
            }
            "${plot.title}: $values"
        }
        requestLayout()
        invalidate()
    }

    override fun onMeasure(width: Int, height: Int) {
        val needed = (plots.size * (plotHeight() + context.dp(GAP_DP)) + 2 * lineHeight).toInt()
        setMeasuredDimension(getDefaultSize(suggestedMinimumWidth, width), resolveSize(needed, height))
    }

    override fun onDraw(canvas: Canvas) {
        var top = 0f
        for (plot in plots) {
            draw(canvas, plot, top)
            top += plotHeight() + context.dp(GAP_DP)
        }
        drawRounds(canvas, top - context.dp(GAP_DP) + lineHeight)
    }

    private fun plotHeight() = context.dp(AXIS_DP) + 2 * lineHeight

    private fun left(): Float =
        plots.maxOf { plot -> ticks(plot).maxOf { text.measureText(number(it)) } } + context.dp(8)

    private fun draw(canvas: Canvas, plot: Plot, top: Float) {
        text.color = context.getColor(R.color.on_surface)
        text.textAlign = Paint.Align.LEFT
        canvas.drawText(plot.title, 0f, top - text.ascent(), text)
        val axisTop = top + 1.6f * lineHeight
        val bottom = axisTop + context.dp(AXIS_DP)
        val ticks = ticks(plot)
        val low = ticks.first()
        val high = ticks.last()
        fun y(value: Double) = (bottom - (value - low) / (high - low) * (bottom - axisTop)).toFloat()
        for (tick in ticks) {
            paint.color = context.getColor(R.color.outline)
            paint.strokeWidth = context.dp(1).toFloat()
            canvas.drawLine(left(), y(tick), width.toFloat(), y(tick), paint)
            text.color = context.getColor(R.color.on_surface_muted)
            text.textAlign = Paint.Align.RIGHT
            val baseline = y(tick) - (text.ascent() + text.descent()) / 2
            canvas.drawText(number(tick), left() - context.dp(8), baseline, text)
        }
        paint.color = context.getColor(plot.color)
        if (plot.line) drawLine(canvas, plot, ::y) else drawBars(canvas, plot, bottom, ::y)
    }

    private fun drawBars(canvas: Canvas, plot: Plot, bottom: Float, y: (Double) -> Float) {
        val half = minOf(step() * BAR / 2, context.dp(MAX_BAR_DP) / 2f)
        val round = minOf(half, context.dp(4).toFloat())
        plot.values.forEachIndexed { index, value ->
            if (value == null) return@forEachIndexed
            canvas.save()
            canvas.clipRect(0f, 0f, width.toFloat(), bottom)
            canvas.drawRoundRect(x(index) - half, y(value), x(index) + half, bottom + round, round, round, paint)
            canvas.restore()
        }
    }

    private fun drawLine(canvas: Canvas, plot: Plot, y: (Double) -> Float) {
        paint.strokeWidth = context.dp(2).toFloat()
        val points = plot.values.mapIndexedNotNull { index, value -> value?.let { x(index) to y(it) } }
        points.zipWithNext { from, to -> canvas.drawLine(from.first, from.second, to.first, to.second, paint) }
        points.forEach { canvas.drawCircle(it.first, it.second, context.dp(3).toFloat(), paint) }
    }

    /** The numbers of the rounds, and below them the depth that groups of them share. */
    private fun drawRounds(canvas: Canvas, baseline: Float) {
        text.color = context.getColor(R.color.on_surface_muted)
        text.textAlign = Paint.Align.CENTER
        val depths = rounds.map { it.depth }
        rounds.forEachIndexed { index, round ->
            val number = index - depths.indexOf(round.depth) + 1
            canvas.drawText(number.toString(), x(index), baseline, text)
        }
        for (depth in depths.distinct()) {
            val middle = (x(depths.indexOf(depth)) + x(depths.lastIndexOf(depth))) / 2
            canvas.drawText(context.getString(R.string.plot_depth, depth), middle, baseline + lineHeight, text)
        }
    }

    /** Rounds are a step apart, and depths a little more. */
    private fun step(): Float {
        val depths = rounds.map { it.depth }.distinct().size
        return (width - left()) / maxOf(1f, rounds.size + GROUP * (depths - 1))
    }

    private fun x(index: Int): Float {
        val before = rounds.take(index + 1).map { it.depth }.distinct().size - 1
        return left() + step() * (index + GROUP * before + 0.5f)
    }

    /** Bars begin at 0; a line has its own range. */
    private fun ticks(plot: Plot): List<Double> {
        val values = plot.values.filterNotNull()
        val least = if (plot.line) floor(values.min()) - 1 else 0.0
        val step = roundUp(maxOf(values.max() - least, 1e-3) / TICKS)
        return (0..ceil((values.max() - least) / step).toInt().coerceAtLeast(1)).map { least + it * step }
    }

    /** The next of 1, 2, 5, 10 … */
    private fun roundUp(value: Double): Double {
        val ten = 10.0.pow(floor(log10(value)))
        return ten * listOf(1, 2, 5, 10).first { it * ten >= value * 0.999 }
    }

    private fun number(value: Double): String =
        (if (value >= 100 || value % 1.0 == 0.0) "%,.0f" else "%.1f").format(resources.configuration.locales[0], value)

    private fun sp(value: Float) =
        TypedValue.applyDimension(TypedValue.COMPLEX_UNIT_SP, value, resources.displayMetrics)

    private companion object {
        const val AXIS_DP = 96
        const val GAP_DP = 12
        const val TICKS = 3
        const val BAR = 0.6f
        const val GROUP = 0.5f
        const val MAX_BAR_DP = 40
    }
}
