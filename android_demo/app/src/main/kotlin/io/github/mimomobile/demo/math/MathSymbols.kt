package io.github.mimomobile.demo.math

import io.github.mimomobile.demo.math.MathNode.Symbol

/** LaTeX's names of symbols. */
internal object MathSymbols {
    /** The symbol of a command without its backslash; null when it is none. */
    fun find(name: String): Symbol? = named[name]

    /** What a character stands for. */
    fun of(char: String): Symbol = when {
        char == "-" -> Symbol("−", Atom.BIN)
        char == "*" -> Symbol("∗", Atom.BIN)
        char == "'" -> Symbol("′")
        char in "+" -> Symbol(char, Atom.BIN)
        char in "=<>:" -> Symbol(char, Atom.REL)
        char in "([" -> Symbol(char, Atom.OPEN)
        char in ")]!" -> Symbol(char, Atom.CLOSE)
        char in ",;" -> Symbol(char, Atom.PUNCT)
        char.first().isLetter() && char.first() < '\u0370' -> Symbol(char, face = Face.ITALIC)
        else -> Symbol(char)
    }

    private val named = HashMap<String, Symbol>()

    private fun all(atom: Atom, face: Face, list: String) {
        val words = list.trim().split(Regex("\\s+"))
        for (index in words.indices step 2) named[words[index]] = Symbol(words[index + 1], atom, face)
    }

    init {
        all(
            Atom.ORD, Face.ITALIC,
            """alpha α beta β gamma γ delta δ epsilon ϵ varepsilon ε zeta ζ eta η theta θ vartheta ϑ iota ι kappa κ
            lambda λ mu μ nu ν xi ξ pi π rho ρ varrho ϱ sigma σ varsigma ς tau τ upsilon υ phi ϕ varphi φ chi χ psi ψ
            omega ω imath ı jmath ȷ ell ℓ""",
        )
        all(
            Atom.ORD, Face.ROMAN,
            """Gamma Γ Delta Δ Theta Θ Lambda Λ Xi Ξ Pi Π Sigma Σ Upsilon Υ Phi Φ Psi Ψ Omega Ω infty ∞ partial ∂
            nabla ∇ hbar ℏ Re ℜ Im ℑ aleph ℵ emptyset ∅ varnothing ∅ forall ∀ exists ∃ nexists ∄ neg ¬ lnot ¬ angle ∠
            triangle △ square □ Box □ checkmark ✓ degree ° circ ∘ prime ′ dots … ldots … cdots ⋯ vdots ⋮ ddots ⋱
            dotsc … dotsb ⋯ top ⊤ bot ⊥ # # $ $ % % & & _ _ pounds £ S § clubsuit ♣ diamondsuit ♢ heartsuit ♡
            spadesuit ♠ backslash \ therefore ∴ because ∵ blacksquare ■ qed ■ | ‖ Vert ‖ vert | mid_ | complement ∁""",
        )
        all(
            Atom.BIN, Face.ROMAN,
            """times × div ÷ cdot ⋅ pm ± mp ∓ ast ∗ star ⋆ bullet • oplus ⊕ ominus ⊖ otimes ⊗ odot ⊙ cup ∪ cap ∩
            setminus ∖ wedge ∧ land ∧ vee ∨ lor ∨ bmod mod circledast ⊛ uplus ⊎ sqcup ⊔ sqcap ⊓ dagger †""",
        )
        all(
            Atom.REL, Face.ROMAN,
            """leq ≤ le ≤ geq ≥ ge ≥ neq ≠ ne ≠ ll ≪ gg ≫ leqslant ≤ geqslant ≥ approx ≈ sim ∼ simeq ≃ cong ≅ equiv ≡
            propto ∝ in ∈ notin ∉ ni ∋ subset ⊂ supset ⊃ subseteq ⊆ supseteq ⊇ subsetneq ⊊ to → rightarrow → leftarrow ←
            gets ← Rightarrow ⇒ implies ⟹ Longrightarrow ⟹ Leftarrow ⇐ Leftrightarrow ⇔ iff ⟺ leftrightarrow ↔
            longrightarrow ⟶ mapsto ↦ uparrow ↑ downarrow ↓ mid ∣ nmid ∤ parallel ∥ perp ⊥ colon : coloneqq ≔ doteq ≐
            prec ≺ succ ≻ models ⊨ vdash ⊢ hookrightarrow ↪ rightleftharpoons ⇌ asymp ≍ lesssim ≲ gtrsim ≳ triangleq ≜""",
        )
        all(
            Atom.OPEN, Face.ROMAN,
            "{ { lbrace { lbrack [ lparen ( langle ⟨ lfloor ⌊ lceil ⌈ lvert | lVert ‖",
        )
        all(
            Atom.CLOSE, Face.ROMAN,
            "} } rbrace } rbrack ] rparen ) rangle ⟩ rfloor ⌋ rceil ⌉ rvert | rVert ‖",
        )
        for (each in "sum ∑ prod ∏ coprod ∐ bigcup ⋃ bigcap ⋂ bigoplus ⨁ bigotimes ⨂ bigwedge ⋀ bigvee ⋁".split(" ").chunked(2)) {
            named[each[0]] = Symbol(each[1], Atom.OP, limits = true, large = true)
        }
        for (each in "int ∫ iint ∬ iiint ∭ oint ∮".split(" ").chunked(2)) {
            named[each[0]] = Symbol(each[1], Atom.OP, large = true)
        }
        for (each in "lim max min sup inf gcd det Pr limsup liminf argmax argmin".split(" ")) {
            val text = each.replace("limsup", "lim sup").replace("liminf", "lim inf")
            named[each] = Symbol(text.replace("arg", "arg "), Atom.OP, limits = true)
        }
        val functions = "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh coth log ln lg exp deg dim ker hom arg lcm"
        for (each in functions.split(" ")) named[each] = Symbol(each, Atom.OP)
    }

    /** Letters with doubled strokes, those that fonts have. */
    val doubled: Map<Char, String> =
        mapOf('C' to "ℂ", 'H' to "ℍ", 'N' to "ℕ", 'P' to "ℙ", 'Q' to "ℚ", 'R' to "ℝ", 'Z' to "ℤ")

    /** All characters that a font must have. */
    val characters: Set<String> get() = named.values.map { it.text }.toSet() + doubled.values

    val spaces: Map<String, Float> = mapOf(
        "," to 1 / 6f, ":" to 2 / 9f, ">" to 2 / 9f, ";" to 5 / 18f, "!" to -1 / 6f, " " to 0.25f, "quad" to 1f,
        "qquad" to 2f, "enspace" to 0.5f, "thinspace" to 1 / 6f, "medspace" to 2 / 9f, "thickspace" to 5 / 18f,
    )

    val faces: Map<String, Face> = mapOf(
        "text" to Face.ROMAN, "textrm" to Face.ROMAN, "mathrm" to Face.ROMAN, "rm" to Face.ROMAN, "mbox" to Face.ROMAN,
        "textnormal" to Face.ROMAN, "mathbf" to Face.BOLD, "textbf" to Face.BOLD, "boldsymbol" to Face.BOLD, "bm" to Face.BOLD,
        "mathit" to Face.ITALIC, "textit" to Face.ITALIC, "mathsf" to Face.SANS, "mathtt" to Face.MONO,
        "texttt" to Face.MONO, "mathcal" to Face.ITALIC, "mathscr" to Face.ITALIC, "mathfrak" to Face.BOLD,
    )

    val marks: Map<String, Mark> = mapOf(
        "hat" to Mark.HAT, "widehat" to Mark.HAT, "tilde" to Mark.TILDE, "widetilde" to Mark.TILDE, "vec" to Mark.VECTOR,
        "overrightarrow" to Mark.VECTOR, "dot" to Mark.DOT, "ddot" to Mark.TWO_DOTS, "bar" to Mark.LINE,
        "overline" to Mark.LINE, "overbrace" to Mark.LINE, "underline" to Mark.LINE_BELOW, "underbrace" to Mark.LINE_BELOW,
        "cancel" to Mark.STRUCK, "bcancel" to Mark.STRUCK, "not" to Mark.STRUCK,
    )
}
