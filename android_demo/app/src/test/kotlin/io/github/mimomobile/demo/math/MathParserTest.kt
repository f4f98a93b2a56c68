package io.github.mimomobile.demo.math

import io.github.mimomobile.demo.math.MathNode.Fence
import io.github.mimomobile.demo.math.MathNode.Fraction
import io.github.mimomobile.demo.math.MathNode.Grid
import io.github.mimomobile.demo.math.MathNode.Root
import io.github.mimomobile.demo.math.MathNode.Row
import io.github.mimomobile.demo.math.MathNode.Scripts
import io.github.mimomobile.demo.math.MathNode.Symbol
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test

/** Trees of formulas. */
class MathParserTest {
    private val x = Symbol("x", face = Face.ITALIC)

    @Test
    fun `fractions and roots take groups, or single symbols`() {
        val half = Fraction(Symbol("1"), Row(listOf(Symbol("2"))))
        assertEquals(half, one("""\frac 1{2}"""))
        assertEquals(Root(Row(listOf(x)), null), one("""\sqrt{x}"""))
        assertEquals(Root(Row(listOf(x)), Row(listOf(Symbol("3")))), one("""\sqrt[3]{x}"""))
    }

    @Test
    fun `scripts belong to what stands before them, in either order`() {
        val both = Scripts(x, Symbol("1"), Symbol("2"))
        assertEquals(both, one("x_1^2"))
        assertEquals(both, one("x^2_1"))
        assertEquals(Scripts(x, null, Symbol("′")), one("x'"))
    }

    @Test
    fun `digits are one number, and a comma between them belongs to it`() {
        assertEquals(listOf("12,000.5", "+", "x"), row("12,000.5 + x").map { (it as Symbol).text })
        assertEquals(listOf("1", ",", "x"), row("1,x").map { (it as Symbol).text })
    }

    @Test
    fun `matrices have rows and columns, and their delimiters`() {
        val matrix = one("""\begin{pmatrix} 1 & 2 \\ 3 & x \\ \end{pmatrix}""") as Fence
        assertEquals("(" to ")", matrix.left to matrix.right)
        val grid = matrix.body as Grid
        assertEquals(listOf(2, 2), grid.rows.map { it.size })
        assertEquals(Row(listOf(x)), grid.rows[1][1])
        val cases = one("""\begin{cases} x & x > 0 \\ -x & x \le 0 \end{cases}""") as Fence
        assertEquals("{" to "", cases.left to cases.right)
    }

    @Test
    fun `delimiters stretch around what is between them`() {
        val fence = one("""\left[ \frac{1}{2} \right)""") as Fence
        assertEquals("[" to ")", fence.left to fence.right)
        assertTrue("${fence.body}", (fence.body as Row).parts.single() is Fraction)
    }

    @Test
    fun `lines of a formula are rows`() {
        assertEquals(2, (MathParser.parse("""a = b \\ c = d""") as Grid).rows.size)
    }

    @Test
    fun `what is unknown is shown by its name`() {
        assertEquals(Symbol("\\unheardof"), one("""\unheardof"""))
    }

    @Test
    fun `no text is too strange`() {
        val formula = """\left( \frac{a_{1}^{2}}{\sqrt[3]{b}} \right. \begin{cases} 1 & \text{if } x \\ \end{cases} \boxed{76}'"""
        for (end in 0..formula.length) MathParser.parse(formula.substring(0, end)) // as it comes
        val hostile = listOf("{", "}", "^", "_", "\\", "\\frac", "\\sqrt[", "\\left", "\\right", "\\begin{", "&", "\\\\", "'", "$")
        for (each in hostile) for (count in listOf(1, 2, 50_000)) MathParser.parse(each.repeat(count))
    }

    private fun row(source: String) = (MathParser.parse(source) as Row).parts

    private fun one(source: String) = row(source).single()
}
