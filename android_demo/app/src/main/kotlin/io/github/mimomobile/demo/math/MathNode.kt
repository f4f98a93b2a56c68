package io.github.mimomobile.demo.math

/** What a symbol is beside others: it decides the space between them, as TeX's classes do. */
enum class Atom { ORD, OP, BIN, REL, OPEN, CLOSE, PUNCT }

/** How letters look. */
enum class Face { ITALIC, ROMAN, BOLD, SANS, MONO }

/** A part of a formula. */
sealed interface MathNode {
    data class Row(val parts: List<MathNode>) : MathNode

    /** One or more characters. [limits] puts scripts above and below it where there is room; [large] draws it larger. */
    data class Symbol(
        val text: String,
        val atom: Atom = Atom.ORD,
        val face: Face = Face.ROMAN,
        val limits: Boolean = false,
        val large: Boolean = false,
    ) : MathNode

    /** Two parts above each other, with a [bar] between them or without, as in a binomial. */
    data class Fraction(val above: MathNode, val below: MathNode, val bar: Boolean = true) : MathNode

    data class Root(val body: MathNode, val index: MathNode?) : MathNode

    /** [limits] null leaves it to the base where the scripts stand. */
    data class Scripts(val base: MathNode, val below: MathNode?, val above: MathNode?, val limits: Boolean? = null) : MathNode

    /** A part between delimiters as high as it; an empty one draws nothing. */
    data class Fence(val left: String, val body: MathNode, val right: String) : MathNode

    /** [alignment] has l, c or r for each column; the last counts for those that follow. */
    data class Grid(val rows: List<List<MathNode>>, val alignment: String, val pairs: Boolean = false) : MathNode

    /** [mark] is drawn above, or a line above or below. */
    data class Accent(val body: MathNode, val mark: Mark) : MathNode

    /** In em; negative brings what follows nearer. */
    data class Space(val em: Float) : MathNode

    data class Boxed(val body: MathNode) : MathNode
}

/** What can be put on a part of a formula. */
enum class Mark { HAT, TILDE, VECTOR, DOT, TWO_DOTS, LINE, LINE_BELOW, STRUCK }
