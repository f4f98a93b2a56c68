package io.github.mimomobile.runtime.grammar

import java.math.BigDecimal
import java.math.RoundingMode

/** Where a range of numbers ends: at [value], which is one of them if it [isIn]. */
internal class Bound(val value: BigDecimal, val isIn: Boolean) {
    /** The first whole number of a range that begins here. */
    fun leastWhole(): Long =
        if (isIn) rounded(RoundingMode.CEILING) else rounded(RoundingMode.FLOOR) + 1

    /** The last whole number of a range that ends here. */
    fun mostWhole(): Long =
        if (isIn) rounded(RoundingMode.FLOOR) else rounded(RoundingMode.CEILING) - 1

    private fun rounded(mode: RoundingMode): Long = value.setScale(0, mode).toLong()

    fun negated(): Bound = Bound(value.negate(), isIn)
}

/**
 * Decimal numbers between two bounds, digit by digit: all texts of them that have no exponent, with zeros at their end
 * or without. None of them is -0.
 */
internal object NumberRange {
    /** Alternatives in GBNF, none where no number is between the bounds; a bound that is null is none. */
    fun of(least: Bound?, most: Bound?): List<String> {
        val found = mutableListOf<String>()
        if (least == null || least.value.signum() < 0) {
            val nearest = most?.takeIf { it.value.signum() < 0 }?.negated() ?: Bound(BigDecimal.ZERO, isIn = false)
            found += between(nearest, least?.negated()).map { "\"-\" $it" }
        }
        if (most == null || most.value.signum() >= 0) {
            found += between(least?.takeIf { it.value.signum() >= 0 } ?: Bound(BigDecimal.ZERO, isIn = true), most)
        }
        return found
    }

    /** Numbers that are not below 0. */
    private fun between(least: Bound, most: Bound?): List<String> {
        val (from, lower) = parts(least)
        val (to, upper) = most?.let(::parts) ?: Pair(null, null)
        if (to != null && from > to) return emptyList()
        if (from == to) return fractions(above(lower), upper).map { "\"$from\" $it" }
        val begin = fractions(above(lower), null).map { "\"$from\" $it" }
        val inside = IntegerRange.of(from + 1, to?.minus(1)).map { "$it $ANY" }
        return begin + inside + if (to == null) emptyList() else fractions(null, upper).map { "\"$to\" $it" }
    }

    /** A lower edge, unless all is above it. */
    private fun above(edge: Edge?): Edge? = edge?.takeUnless { it.digits.isEmpty() && it.isIn }

    /** The digits of a bound behind a place, the last of which is no 0. */
    private class Edge(val digits: String, val isIn: Boolean) {
        val first: Int get() = if (digits.isEmpty()) 0 else digits[0].digitToInt()

        fun next() = Edge(digits.drop(1), isIn)
    }

    private fun parts(bound: Bound): Pair<Long, Edge> {
        val text = bound.value.stripTrailingZeros().toPlainString()
        return Pair(text.substringBefore('.').toLong(), Edge(text.substringAfter('.', ""), bound.isIn))
    }

    /** What may follow a whole number. Here and below: every fraction is above a lower edge that is null. */
    private fun fractions(least: Edge?, most: Edge?): List<String> {
        if (least == null && most == null) return listOf(ANY)
        return digits(least, most).map { "\".\" $it" } + end(least, most)
    }

    /** The end of a number, where nothing but zeros could follow. */
    private fun end(least: Edge?, most: Edge?): List<String> =
        if (least == null && (most == null || most.isIn || most.digits.isNotEmpty())) listOf("") else emptyList()

    /** One digit and what may follow it. */
    private fun digits(least: Edge?, most: Edge?): List<String> {
        val from = least?.first ?: 0
        val to = most?.first ?: 9
        if (from > to) return emptyList()
        val found = mutableListOf<String>()
        for (digit in listOfNotNull(least?.first, most?.first).distinct()) {
            val lower = above(least?.takeIf { digit == from }?.next())
            found += rest(lower, most?.takeIf { digit == to }?.next()).map { "\"$digit\" $it" }
        }
        val inside = (if (least == null) 0 else from + 1)..(if (most == null) 9 else to - 1)
        if (!inside.isEmpty()) found += "[${inside.first}-${inside.last}] [0-9]*"
        return found
    }

    /** What may follow a digit behind the point. */
    private fun rest(least: Edge?, most: Edge?): List<String> = when {
        least == null && most == null -> listOf("[0-9]*")
        most != null && most.digits.isEmpty() -> if (least == null && most.isIn) listOf("\"0\"*") else emptyList()
        most == null && least!!.digits.isEmpty() -> listOf("\"0\"* [1-9] [0-9]*")
        else -> digits(least, most) + end(least, most)
    }

    /** Any fraction. */
    private const val ANY = "( \".\" [0-9]+ )?"
}
