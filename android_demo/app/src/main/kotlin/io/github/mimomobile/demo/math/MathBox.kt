package io.github.mimomobile.demo.math

import android.graphics.Canvas
import android.graphics.Paint
import android.graphics.Path
import kotlin.math.abs

/** A laid-out part of a formula; [ascent] and [descent] are what it takes above and below its baseline, in pixels. */
internal abstract class MathBox(val width: Float, val ascent: Float, val descent: Float) {
    val height: Float get() = ascent + descent

    abstract fun draw(canvas: Canvas, x: Float, baseline: Float)
}

/** Nothing, of some width. */
internal class Gap(width: Float, ascent: Float = 0f, descent: Float = 0f) : MathBox(width, ascent, descent) {
    override fun draw(canvas: Canvas, x: Float, baseline: Float) = Unit
}

internal class Glyphs(
    private val text: String,
    private val paint: Paint,
    width: Float,
    ascent: Float,
    descent: Float,
    private val left: Float,
    private val shift: Float = 0f,
) : MathBox(width, ascent, descent) {
    override fun draw(canvas: Canvas, x: Float, baseline: Float) = canvas.drawText(text, x + left, baseline + shift, paint)
}

/** Lines; [path] begins at the left of the baseline. */
internal class Strokes(
    private val path: Path,
    private val paint: Paint,
    width: Float,
    ascent: Float,
    descent: Float,
) : MathBox(width, ascent, descent) {
    override fun draw(canvas: Canvas, x: Float, baseline: Float) {
        canvas.save()
        canvas.translate(x, baseline)
        canvas.drawPath(path, paint)
        canvas.restore()
    }
}

/** Boxes at places of their own: right of the left edge, and below the baseline. */
internal class Placed(
    private val parts: List<Part>,
    width: Float,
    ascent: Float = parts.maxOfOrNull { it.box.ascent - it.down } ?: 0f,
    descent: Float = parts.maxOfOrNull { it.box.descent + it.down } ?: 0f,
) : MathBox(width, ascent, descent) {
    class Part(val box: MathBox, val right: Float, val down: Float)

    override fun draw(canvas: Canvas, x: Float, baseline: Float) =
        parts.forEach { it.box.draw(canvas, x + it.right, baseline + it.down) }
}

/** Delimiters of any height, as lines: fonts have them in one size. [top] and [bottom] are below the baseline. */
internal fun delimiter(sign: String, top: Float, bottom: Float, size: Float, paint: Paint): MathBox {
    val width = size * 0.34f
    val height = bottom - top
    val middle = (top + bottom) / 2
    val left = width * 0.25f
    val right = width * 0.8f
    val path = Path()
    fun line(vararg points: Float) {
        path.moveTo(points[0], points[1])
        for (index in 2 until points.size step 2) path.lineTo(points[index], points[index + 1])
    }
    when (sign) {
        "(" -> {
            val out = left * 0.4f
            path.moveTo(right, top)
            path.cubicTo(out, top + height * 0.28f, out, bottom - height * 0.28f, right, bottom)
        }
        ")" -> {
            val out = width - left * 0.4f
            path.moveTo(width - right, top)
            path.cubicTo(out, top + height * 0.28f, out, bottom - height * 0.28f, width - right, bottom)
        }
        "[" -> line(right, top, left, top, left, bottom, right, bottom)
        "]" -> line(width - right, top, width - left, top, width - left, bottom, width - right, bottom)
        "⌊" -> line(left, top, left, bottom, right, bottom)
        "⌋" -> line(width - left, top, width - left, bottom, width - right, bottom)
        "⌈" -> line(right, top, left, top, left, bottom)
        "⌉" -> line(width - right, top, width - left, top, width - left, bottom)
        "⟨", "<" -> line(right, top, left, middle, right, bottom)
        "⟩", ">" -> line(width - right, top, width - left, middle, width - right, bottom)
        "{" -> brace(path, right, left, width / 2, top, middle, bottom)
        "}" -> brace(path, width - right, width - left, width / 2, top, middle, bottom)
        "‖" -> { line(width * 0.3f, top, width * 0.3f, bottom); line(width * 0.7f, top, width * 0.7f, bottom) }
        "/" -> line(width, top, 0f, bottom)
        else -> line(width / 2, top, width / 2, bottom)
    }
    return Strokes(path, paint, width, -top, bottom)
}

private fun brace(path: Path, end: Float, tip: Float, stem: Float, top: Float, middle: Float, bottom: Float) {
    val bend = minOf((middle - top) / 2, abs(end - tip) * 1.2f)
    val point = tip + (tip - stem) * 0.6f
    path.moveTo(end, top)
    path.quadTo(stem, top, stem, top + bend)
    path.lineTo(stem, middle - bend)
    path.quadTo(stem, middle, point, middle)
    path.quadTo(stem, middle, stem, middle + bend)
    path.lineTo(stem, bottom - bend)
    path.quadTo(stem, bottom, end, bottom)
}
