package io.github.mimomobile.runtime.grammar

import io.github.mimomobile.runtime.Sweep
import java.math.BigDecimal
import java.math.RoundingMode
import java.util.SplittableRandom
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test
import org.junit.experimental.categories.Category

/** Ranges of decimal numbers against BigDecimal's comparison. */
class NumberRangeTest {
    private class Range(val least: Bound?, val most: Bound?) {
        private val options = NumberRange.of(least, most)
        private val automaton by lazy { Automaton(GrammarReader.read("root ::= " + options.joinToString(" | "))) }
        val isEmpty get() = options.isEmpty()

        fun has(text: String): Boolean {
            if (isEmpty) return false
            automaton.begin()
            var state = automaton.start
            for (char in text) state = automaton.next(state, char.code) ?: return false
            return state.isWhole
        }

        fun holds(value: BigDecimal): Boolean =
            (least == null || value > least.value || least.isIn && value.compareTo(least.value) == 0) &&
                (most == null || value < most.value || most.isIn && value.compareTo(most.value) == 0)

        override fun toString() = "${if (least?.isIn == true) "[" else "("}${least?.value}, ${most?.value}" +
            if (most?.isIn == true) "]" else ")"
    }

    private fun range(least: String?, most: String?, leastIsIn: Boolean = true, mostIsIn: Boolean = true) =
        Range(least?.let { Bound(BigDecimal(it), leastIsIn) }, most?.let { Bound(BigDecimal(it), mostIsIn) })

    private fun check(range: Range, text: String) {
        val isNumber = NUMBER.matches(text) && !(text.startsWith('-') && BigDecimal(text).signum() == 0)
        assertEquals("$range: $text", isNumber && range.holds(BigDecimal(text)), range.has(text))
    }

    @Test
    fun `numbers are within their bounds, in every spelling without an exponent`() {
        val texts = listOf(
            "0", "-0", "0.0", "-0.0", "1", "1.0", "1.00", "1.000001", "0.999", "0.9990", "-0.001", "0.001", "0.0010",
            "0.0009", "1.2", "1.20", "1.25", "1.250", "1.24999", "1.25001", "1.3", "-1.2", "-1.25", "-1.250", "-1.3",
            "10", "10.0", "9.99", "99", "1e0", "1.", ".5", "00.5", "01", "-", "", "+1", "1.2.3", "-1", "-10",
            "0.0000000000000000000001",
        )
        val bounds = listOf(null, "0", "1", "-1", "1.25", "-1.25", "0.001", "1E-22", "10", "-0.5", "9.99", "1.2")
        for (least in bounds) for (most in bounds) for (isIn in 0..3) {
            val range = range(least, most, isIn % 2 == 0, isIn / 2 == 0)
            for (text in texts) check(range, text)
        }
    }

    @Test
    fun `no range is wider than its bounds where llguidance's is, nor narrower`() {
        val above = range("0", "0.5", leastIsIn = false)
        assertTrue(!above.has("0") && above.has("0.1") && above.has("0.50"))
        val below = range("-0.5", "0", mostIsIn = false)
        assertTrue(!below.has("0") && !below.has("-0") && below.has("-0.5"))
        val between = range("0.1", "1.25")
        assertTrue(between.has("1.2") && between.has("1") && !between.has("1.26") && !between.has("1.2501"))
    }

    @Test
    fun `no number is between bounds that are in the wrong order, or one that both leave out`() {
        for ((least, most) in listOf("1" to "0", "0.2" to "0.1", "-0.1" to "-0.2", "1.5" to "-1.5", "0.1" to "-0.1")) {
            assertTrue("$least, $most", range(least, most).isEmpty)
        }
        for (value in listOf("0", "1", "0.5", "-0.5", "-3")) {
            val one = range(value, value)
            assertTrue(value, one.has(value) && one.has(BigDecimal(value).setScale(3).toString()))
            for (isIn in 1..3) assertTrue(value, range(value, value, isIn % 2 == 0, isIn / 2 == 0).isEmpty)
        }
    }

    @Category(Sweep::class)
    @Test
    fun `random numbers are in random ranges where BigDecimal says so`() {
        val random = SplittableRandom(1)
        fun number(): BigDecimal {
            val digits = random.nextInt(1, 16)
            val most = BigDecimal.TEN.pow(digits).toLong()
            val value = BigDecimal.valueOf(random.nextLong(0, most), random.nextInt(0, digits + 4))
            return if (random.nextInt(2) == 0) value else value.negate()
        }
        val modes = listOf(RoundingMode.FLOOR, RoundingMode.CEILING)
        fun near(value: BigDecimal): BigDecimal = when (random.nextInt(5)) {
            0 -> value
            1 -> value + BigDecimal.valueOf(random.nextLong(-12, 13), random.nextInt(0, value.scale() + 3))
            2 -> value.setScale(random.nextInt(0, value.scale() + 4), modes[random.nextInt(2)])
            3 -> value + BigDecimal.valueOf(random.nextLong(-1, 2), random.nextInt(0, 25))
            else -> number()
        }
        var within = 0
        var outside = 0
        repeat(6000) {
            val first = number()
            val second = near(first)
            val (low, high) = if (first <= second || random.nextInt(20) == 0) first to second else second to first
            val least = Bound(low, random.nextInt(2) == 0).takeIf { random.nextInt(6) > 0 }
            val most = Bound(high, random.nextInt(2) == 0).takeIf { random.nextInt(6) > 0 }
            val range = Range(least, most)
            val inside = low < high && BigDecimal("0.5").let { range.holds(low + (high - low) * it) }
            if (inside) assertTrue("$range", !range.isEmpty)
            val middle = (low + high) / BigDecimal(2)
            for (value in listOf(near(low), near(high), near(low), near(high), number(), middle, BigDecimal.ZERO)) {
                val zeros = if (random.nextInt(3) == 0) random.nextInt(4) else 0
                val text = value.setScale(maxOf(value.scale(), 0) + zeros).toPlainString()
                check(range, text)
                check(range, if (text.startsWith('-')) text.drop(1) else "-$text")
                if (range.has(text)) within++ else outside++
            }
        }
        assertTrue("$within within, $outside outside", within > 10_000 && outside > 10_000)
    }

    private companion object {
        val NUMBER = Regex("-?(0|[1-9][0-9]*)(\\.[0-9]+)?")
    }
}
