package io.github.mimomobile.demo.math

import android.graphics.Bitmap
import android.graphics.Canvas
import android.graphics.Color
import android.graphics.Paint
import android.graphics.Typeface
import io.github.mimomobile.demo.PHONE
import java.io.File
import kotlin.math.ceil
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.RobolectricTestRunner
import org.robolectric.annotation.Config
import org.robolectric.annotation.GraphicsMode

/** Formulas as they are drawn, with Android's own fonts. */
@RunWith(RobolectricTestRunner::class)
@Config(sdk = [34], qualifiers = PHONE)
@GraphicsMode(GraphicsMode.Mode.NATIVE)
class MathLayoutTest {
    @Test
    fun `Android's fonts have every symbol`() {
        val paint = Paint().apply { typeface = Typeface.SERIF }
        val missing = MathSymbols.characters.flatMap { it.codePoints().toArray().map { c -> String(Character.toChars(c)) } }
            .filterNot { paint.hasGlyph(it) }
        assertEquals(emptyList<String>(), missing)
    }

    @Test
    fun `a fraction is higher than its parts, and as wide as the wider one at least`() {
        val one = box("a+b")
        val fraction = box("""\frac{a+b}{2}""")
        assertTrue(fraction.height > 2 * one.height * 0.9)
        assertTrue(fraction.width >= one.width)
        assertTrue("the line is where a minus is", fraction.ascent > fraction.descent)
    }

    @Test
    fun `delimiters, roots and sums are as high as what they hold`() {
        val fraction = """\frac{x}{\frac{y}{z}}"""
        assertTrue(box("""\left($fraction\right)""").height >= box(fraction).height)
        assertTrue(box("""\sqrt{$fraction}""").ascent > box(fraction).ascent)
        assertTrue(box("""\sum_{i=1}^{n}""").height > 2 * box("""\sum""").height * 0.7)
    }

    @Test
    fun `nothing is drawn outside of its box`() {
        for (source in FORMULAS) {
            val box = box(source)
            val pad = 40
            val bitmap = Bitmap.createBitmap(
                ceil(box.width).toInt() + 2 * pad, ceil(box.height).toInt() + 2 * pad, Bitmap.Config.ARGB_8888,
            )
            bitmap.eraseColor(Color.WHITE)
            box.draw(Canvas(bitmap), pad.toFloat(), pad + box.ascent)
            save(bitmap, FORMULAS.indexOf(source))
            var inked = 0
            for (y in 0 until bitmap.height) {
                for (x in 0 until bitmap.width) {
                    if (bitmap.getPixel(x, y) == Color.WHITE) continue
                    inked++
                    val near = 5 // half of a line, and what smooths it
                    assertTrue(
                        "$source at $x, $y of ${bitmap.width} × ${bitmap.height}",
                        x in pad - near until bitmap.width - pad + near && y in pad - near until bitmap.height - pad + near,
                    )
                }
            }
            assertTrue("$source shows nothing", inked > 50)
        }
    }

    private fun save(bitmap: Bitmap, index: Int) {
        val folder = System.getProperty("mimo.formulas") ?: return
        File(folder, "formula-$index.png").outputStream().use { bitmap.compress(Bitmap.CompressFormat.PNG, 100, it) }
    }

    private fun box(source: String) = MathLayout.lay(MathParser.parse(source), 48f, Color.BLACK, display = true)

    private companion object {
        val FORMULAS = listOf(
            """x = \frac{-b \pm \sqrt{b^2 - 4ac}}{2a}""",
            """\sum_{k=1}^{n} k^2 = \frac{n(n+1)(2n+1)}{6}""",
            """\int_0^\infty e^{-x^2}\,dx = \frac{\sqrt{\pi}}{2}, \quad \lim_{x \to 0} \frac{\sin x}{x} = 1""",
            """A = \begin{pmatrix} 2 & -1 \\ 0 & \frac{1}{3} \end{pmatrix}, \quad \det A = \begin{vmatrix} 2 & -1 \\ 0 & 1/3 \end{vmatrix}""",
            """f(x) = \begin{cases} x^2 & \text{if } x \ge 0 \\ -x & \text{otherwise} \end{cases}""",
            """\begin{align*} 7x + 12 &= 3x + 52 \\ 4x &= 40 \\ x &= \boxed{10} \end{align*}""",
            """\left\{ \sqrt[3]{\frac{a}{b}} \;\middle|\; \vec{v} \cdot \hat{u} \neq \overline{z_1 z_2} \right\} \in \mathbb{R}^{n \times n}""",
            """\binom{n}{k} = \frac{n!}{k!\,(n-k)!} \implies \left\lfloor \frac{17}{5} \right\rfloor \equiv 3 \pmod{5}""",
            """1 + \cfrac{1}{1 + \cfrac{1}{1 + \cfrac{1}{x}}} \approx \prod_{p \text{ prime}} \left(1 - p^{-s}\right)^{-1}""",
            """\left[ x'' + \omega_0^2 x \right] \xrightarrow{t \to \infty} \dot{y} - \ddot z \not= \cancel{3x} \lfloor f_j \rfloor""",
        )
    }
}
