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

/** Plots over the same columns, below each other: speeds of rounds as bars, what changes in time as lines. */
class PlotView(context: Context, attributes: AttributeSet?) : View(context, attributes) {
    private class Plot(val title: String, val color: Int, val values: List<Double?>, val line: Boolean)

    private val text = Paint(Paint.ANTI_ALIAS_FLAG).apply { textSize = sp(12f) }
    private val paint = Paint(Paint.ANTI_ALIAS_FLAG)
    private val lineHeight get() = text.fontSpacing
    private var columns = emptyList<Column>()
    private var plots = emptyList<Plot>()

    /** A place of the horizontal axis: its own [label], and the [group] that its neighbors share. */
    private class Column(val label: String, val group: String)

    /** Prefill and decode, and the battery's temperature. */
    fun show(rounds: List<Round>) {
        val depths = rounds.map { it.depth }
        set(
            rounds.mapIndexed { index, round ->
                val number = index - depths.indexOf(round.depth) + 1
                Column(number.toString(), context.getString(R.string.plot_depth, round.depth))
            },
            Plot(context.getString(R.string.plot_prefill), R.color.second, rounds.map { it.prefillTps }, false),
            Plot(context.getString(R.string.plot_decode), R.color.accent, rounds.map { it.decodeTps }, false),
            Plot(context.getString(R.string.plot_temperature), R.color.error, rounds.map { it.batteryTemperatureC }, true),
        )
        tell { plot ->
            plot.values.zip(rounds).joinToString("; ") { (value, round) ->
                context.getString(R.string.plot_value, round.depth, value?.let(::number) ?: "–")
            }
        }
    }

    /** Speed, temperature and battery in time. */
    fun showSoak(samples: List<SoakSample>) {
        var minute = 0
        set(
            samples.map {
                val now = (it.atS / 60).toInt()
                Column(if (now > minute) now.toString() else "", context.getString(R.string.plot_minutes)).also { minute = now }
            },
            Plot(context.getString(R.string.plot_decode), R.color.accent, samples.map { it.decodeTps }, true),
            Plot(context.getString(R.string.plot_temperature), R.color.error, samples.map { it.batteryTemperatureC }, true),
            Plot(context.getString(R.string.plot_battery), R.color.second, samples.map { it.batteryPercent?.toDouble() }, true),
        )
        tell { plot ->
            val known = plot.values.filterNotNull()
            context.getString(R.string.plot_from_to, number(known.first()), number(known.last()))
        }
    }

    private fun set(columns: List<Column>, vararg plots: Plot) {
        this.columns = columns
        this.plots = plots.filter { plot -> plot.values.any { it != null } }
        requestLayout()
        invalidate()
    }

    private fun tell(values: (Plot) -> String) {
        contentDescription = plots.joinToString(". ") { "${it.title}: ${values(it)}" }
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
        drawLabels(canvas, top - context.dp(GAP_DP) + lineHeight)
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
        if (points.size <= FEW) points.forEach { canvas.drawCircle(it.first, it.second, context.dp(3).toFloat(), paint) }
    }

    /** The labels of the columns, and below them what groups of them share. */
    private fun drawLabels(canvas: Canvas, baseline: Float) {
        text.color = context.getColor(R.color.on_surface_muted)
        text.textAlign = Paint.Align.CENTER
        columns.forEachIndexed { index, column ->
            val half = text.measureText(column.label) / 2
            canvas.drawText(column.label, minOf(x(index), width - half), baseline, text)
        }
        val groups = columns.map { it.group }
        for (group in groups.distinct()) {
            val middle = (x(groups.indexOf(group)) + x(groups.lastIndexOf(group))) / 2
            canvas.drawText(group, middle, baseline + lineHeight, text)
        }
    }

    /** Columns are a step apart, and groups a little more. */
    private fun step(): Float {
        val groups = columns.map { it.group }.distinct().size
        return (width - left()) / maxOf(1f, columns.size + GROUP * (groups - 1))
    }

    private fun x(index: Int): Float {
        val before = columns.take(index + 1).map { it.group }.distinct().size - 1
        return left() + step() * (index + GROUP * before + 0.5f)
    }

    /** Bars begin at 0; a line has its own range. */
    private fun ticks(plot: Plot): List<Double> {
        val values = plot.values.filterNotNull()
        val lowest = if (plot.line) floor(values.min()) - 1 else 0.0
        val step = roundUp(maxOf(values.max() - lowest, 1e-3) / TICKS)
        val least = floor(lowest / step) * step
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
        const val FEW = 20
        const val BAR = 0.6f
        const val GROUP = 0.5f
        const val MAX_BAR_DP = 40
    }
}
