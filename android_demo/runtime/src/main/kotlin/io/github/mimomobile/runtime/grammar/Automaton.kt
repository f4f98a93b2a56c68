package io.github.mimomobile.runtime.grammar

/**
 * Where a text can be in a grammar after some of its characters. Equal states are one object while they are remembered.
 *
 * @property isWhole Whether the text may end here.
 */
internal class State(val stacks: List<Stack>, val isWhole: Boolean, classes: Int) {
    private val nexts = arrayOfNulls<State>(minOf(classes, MOST_DIRECT))
    private var others: HashMap<Int, State>? = null

    /** What comes after a character of a class, which [read] finds when it is not known yet. */
    fun next(kind: Int, read: () -> State): State {
        if (kind < MOST_DIRECT) return nexts[kind] ?: read().also { nexts[kind] = it }
        return (others ?: HashMap<Int, State>().also { others = it }).getOrPut(kind, read)
    }

    /** Forgets what comes next, which holds all that came after it. */
    fun forget() {
        nexts.fill(null)
        others = null
    }

    /** Whether nothing can come. */
    val isOver: Boolean get() = stacks.isEmpty()

    private companion object {
        /** A grammar of more classes has most of them at few places. */
        const val MOST_DIRECT = 64
    }
}

/** What is still to come, from the characters of [step] on; [below] comes after it. */
internal class Stack(val step: Step, val below: Stack?)

/** An item of a rule, and those after it in their sequence. */
internal class Step(val item: Item, val next: Step?) {
    /** What an item stands for: the first steps of its alternatives, null of an empty one. */
    var options: List<Step?> = emptyList()

    /** Of a repetition: what is repeated, and the repetition with one time less. */
    var repeated: Step? = null
    var fewer: Step? = null

    /** Of characters: the number of their set. */
    var set: Int = -1
}

/**
 * A grammar as a machine that reads characters: a pushdown automaton whose states, sets of stacks, are found as texts
 * need them and remembered, so that most steps are one look-up.
 *
 * @throws IllegalArgumentException The grammar is more ambiguous than a state may be.
 */
internal class Automaton(rules: Map<String, List<List<Item>>>) {
    private val classes = CharClasses(rules.values.flatMap(::sets).distinct())
    private val options = HashMap<String, List<Step?>>()
    private val stacks = HashMap<Pair<Step, Stack?>, Stack>()
    private val states = HashMap<Pair<List<Stack>, Boolean>, State>()
    private val order = HashMap<Stack, Int>()
    private val masks = object : LinkedHashMap<State, LongArray>(16, 0.75f, true) {
        override fun removeEldestEntry(eldest: Map.Entry<State, LongArray>) = size > MOST_MASKS
    }
    private val dead = State(emptyList(), isWhole = false, 0)
    private var work = 0
    private var looked = 0
    private var kept = 0

    /** Before the first character. */
    val start: State

    init {
        val open = mutableListOf<Step>()
        for ((name, each) in rules) options[name] = each.map { steps(it, open) }
        for (step in open) step.options = options.getValue((step.item as Item.Rule).name)
        start = closed(options.getValue("root").map { it?.let { step -> stack(step, null) } })
    }

    private fun sets(options: List<List<Item>>): List<CharSet> = options.flatten().flatMap { item ->
        when (item) {
            is Item.Chars -> listOf(item.set)
            is Item.Group -> sets(item.options)
            is Item.Repeated -> sets(listOf(listOf(item.item)))
            is Item.Rule -> emptyList()
        }
    }

    private fun steps(items: List<Item>, open: MutableList<Step>): Step? =
        items.foldRight(null as Step?) { item, next ->
            Step(item, next).also { step ->
                when (item) {
                    is Item.Rule -> open += step
                    is Item.Group -> step.options = item.options.map { steps(it, open) }
                    is Item.Repeated -> step.repeated = steps(listOf(item.item), open)
                    is Item.Chars -> step.set = classes.number(item.set)
                }
            }
        }

    /** So much work may be done until the next call: it begins to count anew. */
    fun begin() {
        work = 0
        looked = 0
        if (stacks.size > MOST_STACKS_KEPT || states.size > MOST_STATES_KEPT || kept > MOST_PLACES_KEPT) {
            states.values.forEach(State::forget)
            start.forget()
            kept = 0
            stacks.clear()
            states.clear()
            order.clear()
            masks.clear()
        }
    }

    /** The state after a character, or null if it cannot come. */
    fun next(state: State, char: Int): State? {
        val kind = classes.of(char)
        val found = state.next(kind) { read(state, kind) }
        return if (found === dead) null else found
    }

    private fun read(state: State, kind: Int): State {
        looked += state.stacks.size
        if (looked > MOST_LOOKED) throw IllegalArgumentException(TOO_MUCH)
        val after = state.stacks.filter { classes.has(kind, it.step.set) }.map(::popped)
        return if (after.isEmpty()) dead else closed(after)
    }

    /** The state after the bytes of a token, which go on after [begun]; null if they cannot come. */
    fun after(state: State, begun: ByteArray, bytes: ByteArray): Pair<State, ByteArray>? {
        val decoded = Decoded.of(begun + bytes) ?: return null
        var here = state
        for (char in decoded.chars) here = next(here, char) ?: return null
        if (decoded.tail != null && !meets(here, decoded.tail.first, decoded.tail.last)) return null
        return Pair(here, decoded.rest)
    }

    /** Whether one of the characters from [first] to [last] can come. */
    fun meets(state: State, first: Int, last: Int): Boolean =
        state.stacks.any { (it.step.item as Item.Chars).set.meets(first, last) }

    /** The tokens that may come at a state, which [find] finds when they are not remembered. */
    fun mask(state: State, find: () -> LongArray): LongArray = masks.getOrPut(state, find)

    /** The first and the last of the characters that can come after [begun], the first bytes of it; null if there is none. */
    fun reach(state: State, begun: ByteArray): Pair<Int, Int>? {
        val range = if (begun.isEmpty()) 0..CharSet.LAST else checkNotNull(Decoded.of(begun)?.tail)
        var first = Int.MAX_VALUE
        var last = -1
        for (stack in state.stacks) {
            val set = (stack.step.item as Item.Chars).set
            if (!set.meets(range.first, range.last)) continue
            first = minOf(first, set.firstFrom(range.first))
            last = maxOf(last, set.lastTo(range.last))
        }
        return if (last < 0) null else Pair(first, last)
    }

    /** The state of stacks whose tops are no characters yet; null is the end of the text. */
    private fun closed(open: List<Stack?>): State {
        val waiting = ArrayDeque(open)
        val seen = HashSet<Stack>()
        val tops = mutableListOf<Stack>()
        var isWhole = false
        while (waiting.isNotEmpty()) {
            val stack = waiting.removeLast()
            if (stack == null) {
                isWhole = true
                continue
            }
            if (!seen.add(stack)) continue
            if (seen.size > MOST_STACKS || ++work > MOST_WORK) throw IllegalArgumentException(TOO_MUCH)
            val step = stack.step
            when (val item = step.item) {
                is Item.Chars -> tops += stack
                is Item.Repeated -> {
                    if (item.least == 0) waiting += popped(stack)
                    if (item.most != 0) waiting += stack(checkNotNull(step.repeated), stack(fewer(step, item), stack.below))
                }
                is Item.Rule, is Item.Group -> {
                    val after = popped(stack)
                    step.options.forEach { waiting += if (it == null) after else stack(it, after) }
                }
            }
        }
        tops.sortBy { order.getOrPut(it) { order.size } }
        return states.getOrPut(Pair(tops, isWhole)) { State(tops, isWhole, classes.count).also { kept += tops.size } }
    }

    private fun fewer(step: Step, item: Item.Repeated): Step = step.fewer ?: run {
        val least = maxOf(item.least - 1, 0)
        val most = item.most?.minus(1)
        if (least == item.least && most == item.most) return step
        Step(Item.Repeated(item.item, least, most), step.next).also {
            it.repeated = step.repeated
            step.fewer = it
        }
    }

    private fun popped(stack: Stack): Stack? = stack.step.next?.let { stack(it, stack.below) } ?: stack.below

    private fun stack(step: Step, below: Stack?): Stack = stacks.getOrPut(Pair(step, below)) { Stack(step, below) }

    private companion object {
        /** So many places in a grammar one place in a text may be. */
        const val MOST_STACKS = 20_000

        /** So many stacks are made, and looked at, for one token; an ambiguous grammar may take more with every one. */
        const val MOST_WORK = 400_000
        const val MOST_LOOKED = 20_000_000

        /** So many stacks and states are remembered from token to token. */
        const val MOST_STACKS_KEPT = 50_000
        const val MOST_STATES_KEPT = 5_000
        const val MOST_PLACES_KEPT = 4_000_000 // of all states together, which are 16 MB and more
        const val MOST_MASKS = 32
        const val TOO_MUCH = "the structure cannot be followed any further: it is too ambiguous; make it simpler"
    }
}
