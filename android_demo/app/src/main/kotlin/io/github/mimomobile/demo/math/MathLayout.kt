package io.github.mimomobile.demo.math

import android.graphics.Paint
import android.graphics.Path
import android.graphics.Rect
import android.graphics.Typeface
import io.github.mimomobile.demo.math.MathNode.Accent
import io.github.mimomobile.demo.math.MathNode.Boxed
import io.github.mimomobile.demo.math.MathNode.Fence
import io.github.mimomobile.demo.math.MathNode.Fraction
import io.github.mimomobile.demo.math.MathNode.Grid
import io.github.mimomobile.demo.math.MathNode.Root
import io.github.mimomobile.demo.math.MathNode.Row
import io.github.mimomobile.demo.math.MathNode.Scripts
import io.github.mimomobile.demo.math.MathNode.Space
import io.github.mimomobile.demo.math.MathNode.Symbol
import io.github.mimomobile.demo.math.Placed.Part
import kotlin.math.max

/**
 * Lays out a formula, by the rules of TeX in short: with the phone's own serif font, and lines for what has to stretch.
 *
 * @param display Whether it stands on lines of its own, where fractions and sums are larger.
 */
internal class MathLayout private constructor(
    private val size: Float,
    private val color: Int,
    private val display: Boolean,
    private val scriptLevel: Int,
) {
    private val paints = HashMap<Face, Paint>()
    private val rule = max(1f, size * 0.05f)
    private val lines = Paint(Paint.ANTI_ALIAS_FLAG).also {
        it.color = color
        it.style = Paint.Style.STROKE
        it.strokeWidth = rule
        it.strokeJoin = Paint.Join.ROUND
    }

    /** Where the middle of a plus is. */
    private val axis = size * 0.27f

    private fun paint(face: Face): Paint = paints.getOrPut(face) {
        Paint(Paint.ANTI_ALIAS_FLAG).also {
            it.textSize = size
            it.color = color
            it.typeface = when (face) {
                Face.ITALIC -> Typeface.create(Typeface.SERIF, Typeface.ITALIC)
                Face.ROMAN -> Typeface.SERIF
                Face.BOLD -> Typeface.create(Typeface.SERIF, Typeface.BOLD)
                Face.SANS -> Typeface.SANS_SERIF
                Face.MONO -> Typeface.MONOSPACE
            }
        }
    }

    private fun smaller() =
        MathLayout(if (scriptLevel < 2) size * 0.72f else size, color, display = false, scriptLevel = scriptLevel + 1)

    /** For the parts of a fraction, which stand closer. */
    private fun inner() = if (display) MathLayout(size, color, display = false, scriptLevel) else smaller()

    fun box(node: MathNode): MathBox = when (node) {
        is Row -> row(node.parts)
        is Symbol -> symbol(node)
        is Space -> Gap(node.em * size)
        is Fraction -> fraction(node)
        is Root -> root(node)
        is Scripts -> scripts(node)
        is Fence -> fence(node)
        is Grid -> grid(node)
        is Accent -> accent(node)
        is Boxed -> boxed(box(node.body))
    }

    private fun symbol(node: Symbol): MathBox {
        if (node.large) return large(node)
        val paint = paint(node.face)
        val bounds = Rect().also { paint.getTextBounds(node.text, 0, node.text.length, it) }
        // What leans over its own width, to either side, would touch what stands there.
        val left = max(0f, -bounds.left.toFloat())
        val width = left + max(paint.measureText(node.text), bounds.right.toFloat())
        return Glyphs(node.text, paint, width, -bounds.top.toFloat(), bounds.bottom.toFloat(), left)
    }

    private fun large(node: Symbol): MathBox {
        val paint = Paint(paint(node.face)).apply { textSize = size * if (display) 1.7f else 1.2f }
        val bounds = Rect().also { paint.getTextBounds(node.text, 0, node.text.length, it) }
        val shift = -axis - bounds.exactCenterY()
        val left = max(0f, -bounds.left.toFloat())
        val width = left + max(paint.measureText(node.text), bounds.right.toFloat())
        return Glyphs(node.text, paint, width, -bounds.top - shift, bounds.bottom + shift, left, shift)
    }

    private fun row(nodes: List<MathNode>): MathBox {
        val parts = ArrayList<Part>()
        var x = 0f
        var before: Atom? = null
        nodes.forEachIndexed { index, node ->
            val box = box(node)
            var atom = atomOf(node)
            if (atom == Atom.BIN && (before in BEFORE_SIGN || index == nodes.lastIndex)) atom = Atom.ORD // a sign
            if (atom != null) x += space(before, atom) * size
            parts += Part(box, x, 0f)
            x += box.width
            before = if (atom == null) before else atom
        }
        return Placed(parts, x)
    }

    private fun atomOf(node: MathNode): Atom? = when (node) {
        is Symbol -> node.atom
        is Scripts -> atomOf(node.base)
        is Space -> null
        is Fraction, is Fence -> Atom.OP // a little room on both sides
        is Row -> node.parts.singleOrNull()?.let(::atomOf) ?: Atom.ORD
        else -> Atom.ORD
    }

    private fun space(before: Atom?, atom: Atom): Float {
        if (before == null) return 0f
        val pair = setOf(before, atom)
        return when {
            before == Atom.OPEN || atom == Atom.CLOSE || atom == Atom.PUNCT -> 0f
            scriptLevel > 0 -> if (Atom.OP in pair && Atom.OPEN != atom) THIN else 0f
            Atom.REL in pair -> if (before == atom) 0f else THICK
            Atom.BIN in pair -> MEDIUM
            before == Atom.PUNCT -> THIN
            Atom.OP in pair && atom != Atom.OPEN && before != Atom.CLOSE -> THIN
            else -> 0f
        }
    }

    private fun fraction(node: Fraction): MathBox {
        val inside = inner()
        val above = inside.box(node.above)
        val below = inside.box(node.below)
        val gap = size * if (display) 0.22f else 0.14f
        val pad = size * 0.1f
        val width = max(above.width, below.width) + 2 * pad
        val parts = mutableListOf(
            Part(above, (width - above.width) / 2, -axis - rule / 2 - gap - above.descent),
            Part(below, (width - below.width) / 2, -axis + rule / 2 + gap + below.ascent),
        )
        if (node.bar) {
            val line = Path().apply { moveTo(pad / 2, -axis); lineTo(width - pad / 2, -axis) }
            parts += Part(Strokes(line, lines, width, axis, 0f), 0f, 0f)
        }
        return Placed(parts, width)
    }

    private fun root(node: Root): MathBox {
        val body = box(node.body)
        val gap = size * 0.14f
        val top = -max(body.ascent, size * 0.5f) - gap - rule
        val bottom = max(body.descent, 0f) + size * 0.06f
        val hook = size * 0.55f
        val index = node.index?.let { smaller().smaller().box(it) }
        val start = max(0f, (index?.width ?: 0f) - hook * 0.45f)
        val width = start + hook + body.width + size * 0.08f
        val middle = bottom - (bottom - top) * 0.42f
        val path = Path().apply {
            moveTo(start, middle + size * 0.05f)
            lineTo(start + hook * 0.22f, middle - size * 0.02f)
            lineTo(start + hook * 0.52f, bottom)
            lineTo(start + hook * 0.92f, top)
            lineTo(width, top)
        }
        val parts = mutableListOf(
            Part(Strokes(path, lines, width, -top + rule, bottom), 0f, 0f),
            Part(body, start + hook, 0f),
        )
        if (index != null) {
            parts += Part(index, max(0f, start + hook * 0.45f - index.width), middle - size * 0.14f - index.descent)
        }
        return Placed(parts, width)
    }

    private fun scripts(node: Scripts): MathBox {
        val base = box(node.base)
        val above = node.above?.let { smaller().box(it) }
        val below = node.below?.let { smaller().box(it) }
        val symbol = node.base as? Symbol
        if (node.limits ?: (display && symbol?.limits == true)) return limits(base, above, below)
        val gap = size * 0.06f
        val isSmall = symbol != null && !symbol.large
        var up = if (isSmall) size * 0.4f else max(size * 0.4f, base.ascent - size * 0.3f)
        var down = if (isSmall) size * 0.18f else max(size * 0.18f, base.descent + size * 0.1f)
        if (above != null) up = max(up, above.descent + size * 0.3f)
        if (below != null) down = max(down, below.ascent - size * 0.55f)
        if (above != null && below != null) {
            val between = (up - above.descent) - (below.ascent - down)
            if (between < size * 0.12f) down += size * 0.12f - between
        }
        val parts = mutableListOf(Part(base, 0f, 0f))
        if (above != null) parts += Part(above, base.width + gap, -up)
        if (below != null) parts += Part(below, base.width + if (symbol?.large == true) 0f else gap, down)
        return Placed(parts, base.width + gap + max(above?.width ?: 0f, below?.width ?: 0f))
    }

    private fun limits(base: MathBox, above: MathBox?, below: MathBox?): MathBox {
        val gap = size * 0.14f
        val width = listOfNotNull(base, above, below).maxOf { it.width }
        val parts = mutableListOf(Part(base, (width - base.width) / 2, 0f))
        if (above != null) parts += Part(above, (width - above.width) / 2, -base.ascent - gap - above.descent)
        if (below != null) parts += Part(below, (width - below.width) / 2, base.descent + gap + below.ascent)
        return Placed(parts, width)
    }

    private fun fence(node: Fence): MathBox {
        val body = box(node.body)
        // As far above the axis as below it, and never smaller than a letter.
        val reach = maxOf(body.ascent - axis, body.descent + axis, size * 0.46f) + size * 0.06f
        val sign = { text: String -> delimiter(text, -axis - reach, -axis + reach, size, lines) }
        val all = listOfNotNull(
            node.left.ifEmpty { null }?.let(sign),
            Gap(size * 0.04f),
            body,
            Gap(size * 0.04f),
            node.right.ifEmpty { null }?.let(sign),
        )
        var x = 0f
        return Placed(all.map { box -> Part(box, x, 0f).also { x += box.width } }, x)
    }

    private fun grid(node: Grid): MathBox {
        val cells = if (node.pairs || !display) this else MathLayout(size, color, display = false, scriptLevel)
        val boxes = node.rows.map { row -> row.map(cells::box) }
        val count = boxes.maxOf { it.size }
        val widths = (0 until count).map { column -> boxes.maxOf { it.getOrNull(column)?.width ?: 0f } }
        val gap = size * 0.4f
        val tops = ArrayList<Float>()
        var y = 0f
        for (row in boxes) {
            val ascent = max(size * 0.7f, row.maxOf { it.ascent })
            y += ascent
            tops += y
            y += max(size * 0.2f, row.maxOf { it.descent }) + gap
        }
        val middle = (y - gap) / 2 + axis
        val parts = ArrayList<Part>()
        var x = 0f
        for (column in 0 until count) {
            if (column > 0) x += size * if (!node.pairs) 0.9f else if (column % 2 == 1) THICK else 2f
            val sides = node.alignment
            val side = if (node.pairs) sides[column % 2] else sides.getOrElse(column) { sides.last() }
            boxes.forEachIndexed { index, row ->
                val box = row.getOrNull(column) ?: return@forEachIndexed
                val left = when (side) {
                    'l' -> 0f
                    'r' -> widths[column] - box.width
                    else -> (widths[column] - box.width) / 2
                }
                parts += Part(box, x + left, tops[index] - middle)
            }
            x += widths[column]
        }
        return Placed(parts, x, middle, y - gap - middle)
    }

    private fun accent(node: Accent): MathBox {
        val body = box(node.body)
        val lift = size * 0.1f
        val y = -body.ascent - lift
        val middle = body.width / 2 + if (node.body is Symbol && node.body.face == Face.ITALIC) size * 0.05f else 0f
        val half = if (node.mark == Mark.HAT || node.mark == Mark.TILDE) minOf(body.width / 2, size * 0.25f) else body.width / 2
        val left = middle - half
        val right = middle + half
        val path = Path()
        when (node.mark) {
            Mark.LINE -> { path.moveTo(left, y); path.lineTo(right, y) }
            Mark.LINE_BELOW -> { path.moveTo(left, body.descent + lift); path.lineTo(right, body.descent + lift) }
            Mark.HAT -> { path.moveTo(left, y); path.lineTo(middle, y - lift); path.lineTo(right, y) }
            Mark.TILDE -> { path.moveTo(left, y); path.cubicTo(middle, y - 2 * lift, middle, y + lift, right, y - lift) }
            Mark.VECTOR -> {
                path.moveTo(left, y); path.lineTo(right, y)
                path.moveTo(right - lift, y - lift * 0.7f); path.lineTo(right, y); path.lineTo(right - lift, y + lift * 0.7f)
            }
            Mark.DOT -> path.addCircle(middle, y, rule * 0.5f, Path.Direction.CW)
            Mark.TWO_DOTS -> for (side in listOf(-0.12f, 0.12f)) {
                path.addCircle(middle + side * size, y, rule * 0.5f, Path.Direction.CW)
            }
            Mark.STRUCK -> { path.moveTo(0f, body.descent); path.lineTo(body.width, -body.ascent) }
        }
        val above = if (node.mark == Mark.LINE_BELOW || node.mark == Mark.STRUCK) body.ascent else body.ascent + 2 * lift
        val below = if (node.mark == Mark.LINE_BELOW) body.descent + lift + rule else body.descent
        return Placed(listOf(Part(body, 0f, 0f), Part(Strokes(path, lines, body.width, above, below), 0f, 0f)), body.width)
    }

    private fun boxed(body: MathBox): MathBox {
        val pad = size * 0.25f
        val path = Path().apply {
            addRect(rule, -body.ascent - pad, body.width + 2 * pad - rule, body.descent + pad, Path.Direction.CW)
        }
        val width = body.width + 2 * pad
        val frame = Strokes(path, lines, width, body.ascent + pad + rule, body.descent + pad + rule)
        return Placed(listOf(Part(frame, 0f, 0f), Part(body, pad, 0f)), width)
    }

    companion object {
        private const val THIN = 1 / 6f
        private const val MEDIUM = 4 / 18f
        private const val THICK = 5 / 18f

        /** After these a plus or a minus is a sign. */
        private val BEFORE_SIGN = setOf(null, Atom.BIN, Atom.OP, Atom.REL, Atom.OPEN, Atom.PUNCT)

        /** A formula of letters of [size] pixels. */
        fun lay(node: MathNode, size: Float, color: Int, display: Boolean): MathBox =
            MathLayout(size, color, display, scriptLevel = 0).box(node)
    }
}
