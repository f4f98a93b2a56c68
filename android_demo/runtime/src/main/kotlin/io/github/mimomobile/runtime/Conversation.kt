package io.github.mimomobile.runtime

import io.github.mimomobile.runtime.files.ConversationHeader
import io.github.mimomobile.runtime.text.ChatTemplate
import java.io.File
import kotlin.coroutines.cancellation.CancellationException
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.flow

/**
 * A question and its answer.
 *
 * @property question What the user said.
 * @property thinking What the model thought.
 * @property answer What it answered.
 */
public data class Turn(val question: String, val thinking: String, val answer: String)

/** What happens when a question does not fit into the context any more. */
public enum class WhenFull {
    /** The flow fails with [MimoException.ContextFull]. */
    ERROR,

    /** The flow ends at once, with [FinishReason.LENGTH] and [Notice.CONTEXT_FULL]. */
    STOP,

    /** The prompt leaves the oldest turns out, and the flow says so by [Notice.TURNS_DROPPED]. */
    DROP,
}

/**
 * A conversation in turns; [MimoEngine.conversation] makes it.
 *
 * ```
 * val conversation = engine.conversation()
 * conversation.send("What is 25 + 17 * 3?").collect { event -> if (event is GenerationEvent.Token) print(event.text) }
 * conversation.send("And half of that?").collect { … }
 * ```
 *
 * The text is what counts: a prompt is made of it anew for every answer, and the engine computes what its KV cache does
 * not hold of that prompt. So an edit, another conversation on the same engine, or a model that was unloaded meanwhile
 * cost time and no token.
 *
 * When the flow of an answer ends, or its collection does, question and answer are a turn; without an answer the turns
 * stay as they are, and only [resume] knows what was thought. A flow is collected once, and before the turns change.
 * Each answer has random numbers of its own, which the seed and the number of answers before it decide: [regenerate]
 * finds another answer, and the same calls with the same seed find the same.
 *
 * @property system The system prompt, which may be changed between two turns.
 * @property config How to generate, where a turn does not say otherwise.
 * @property keepThinking Whether prompts repeat the thinking of earlier turns.
 * @property whenFull What happens when a question does not fit into the context any more.
 */
public class Conversation internal constructor(
    private val engine: Engine,
    @Volatile public var system: String,
    public val config: GenerationConfig,
    public val keepThinking: Boolean,
    public val whenFull: WhenFull,
    text: ConversationText,
    cut: Cut? = null,
) {
    @Volatile
    private var said = text

    /** The last answer, when it was cut. */
    @Volatile
    private var cut = cut
    private val lock = Any()

    /** All turns, the dropped ones included. */
    public val turns: List<Turn> get() = said.turns

    /** How many of the oldest turns the prompt leaves out, because the context was full. */
    public val dropped: Int get() = said.dropped

    /** What the random numbers of all answers come from: 64 bits, of which the first is no sign. */
    public val seed: Long get() = said.seed

    /** How many answers were begun. */
    public val draws: Long get() = said.draws

    /**
     * The answer to a question, as [MimoEngine.generate] gives it.
     *
     * The flow fails as there, and with [MimoException.WrongState] when the turns have changed since this call.
     *
     * @param config How to generate this answer, instead of the conversation's own. A seed in it is taken as it is.
     */
    public fun send(question: String, config: GenerationConfig? = null): Flow<GenerationEvent> =
        said.let { ask(it.turns, it.turns, question, config) }

    /**
     * Another answer to the last question, which takes the place of the last answer; see [send].
     *
     * @throws IllegalArgumentException There is no turn yet.
     */
    public fun regenerate(config: GenerationConfig? = null): Flow<GenerationEvent> = edit(-1, null, config)

    /**
     * The rest of the last answer, which was cut off; it becomes part of its turn. See [send]; nothing may restrict it.
     *
     * Without a [config] it thinks or not as the answer was asked for. An answer that was cut while it still thought is none
     * yet, so that its turn comes only now. No file tells its text, which [restore] takes.
     *
     * @throws IllegalArgumentException Nothing was answered yet.
     */
    public fun resume(config: GenerationConfig? = null): Flow<GenerationEvent> {
        val (now, cut) = now()
        val (base, begun) = begun(now.turns, cut)
        val asked = config ?: cut?.let { this.config.asAsked(it).copy { seed = null } }
        return ask(now.turns, base, begun.question, asked, begun)
    }

    /**
     * The answer to another question in the place of a turn's; when it ends, the turns after it are gone. See [send].
     *
     * @param turn The place of the turn; negative ones count from the end: -1 is the last.
     * @param question The new question; null asks the old one again.
     * @throws IllegalArgumentException There is no such turn.
     */
    public fun edit(turn: Int, question: String?, config: GenerationConfig? = null): Flow<GenerationEvent> {
        val now = turns
        val place = place(now, turn)
        return ask(now, now.take(place), question ?: now[place].question, config)
    }

    /**
     * A second conversation that begins with the first [turns] turns of this one, on the same engine.
     *
     * A fork of all turns resumes an answer that was cut, too. Where both go on, what comes after the common part is
     * computed anew whenever the other one was asked meanwhile.
     *
     * @throws IllegalArgumentException There are fewer turns.
     */
    public fun fork(turns: Int = this.turns.size): Conversation {
        val (now, cut) = now()
        require(turns in 0..now.turns.size) { "turns $turns found; from 0 to ${now.turns.size} expected" }
        val text = now.copy(turns = now.turns.take(turns), dropped = minOf(now.dropped, turns))
        return Conversation(engine, system, config, keepThinking, whenFull, text, cut.takeIf { turns == now.turns.size })
    }

    /**
     * Takes over turns and random numbers, such as those of a text that an app kept; the KV cache stays as it is.
     *
     * @param turns All there are, in place of the conversation's own.
     * @param begun A question after them, and what was thought before its answer was cut: [resume] goes on with it.
     * @throws IllegalArgumentException There are fewer turns than dropped ones, or random numbers were counted backwards.
     */
    public fun restore(
        turns: List<Turn>,
        dropped: Int = 0,
        seed: Long = this.seed,
        draws: Long = this.draws,
        begun: Turn? = null,
    ) {
        require(dropped in 0..turns.size) { "dropped $dropped found; from 0 to ${turns.size} expected" }
        require(draws in 0 until (1L shl 53)) { "draws $draws is out of range" }
        synchronized(lock) {
            val own = ArrayList(turns) // always another list, by which an answer under way sees that it was overtaken
            said = ConversationText(own, dropped, seed, draws)
            cut = begun?.let { Cut(own, it, config.thinks) }
        }
    }

    /** The conversation as messages, without thinking; the system prompt comes first. */
    public fun messages(): List<Message> = messages(system, turns, keepsThinking = false)

    /**
     * How many tokens the prompt has that a question would get; null asks for the rest of the last answer, as [resume] does.
     *
     * @throws IllegalArgumentException There is no question, and nothing was answered yet.
     * @throws MimoException As [MimoEngine.countTokens].
     */
    public fun countTokens(question: String?, config: GenerationConfig? = null): Int {
        val (now, cut) = now()
        val own = config ?: this.config
        if (question != null) return engine.countTokens(prompt(system, now.turns.drop(now.dropped), question, null), own)
        val (base, begun) = begun(now.turns, cut)
        val asked = config ?: own.asAsked(cut)
        return engine.countTokens(prompt(system, base.drop(now.dropped), begun.question, begun), asked)
    }

    /**
     * Writes text, random numbers, and the keys and values that the next prompt begins with, to a file, as the Python
     * library does; [MimoEngine.loadConversation] and that library read it. After an answer that was cut, the next prompt is
     * that of [resume], so that its thinking is among the keys and values.
     *
     * The file appears whole or not at all, its owner alone may read it, and it replaces an earlier conversation. What the
     * prompt leaves out, such as earlier thinking, is not among the keys and values.
     *
     * @throws MimoException.ConversationFile Something else than a saved conversation is there.
     * @throws MimoException.MemoryFull No memory is left for a copy; or [MimoException.Inference]: it cannot be made.
     * @throws MimoException.WrongState Nothing is loaded, the engine is busy, stopped meanwhile, or closed.
     * @throws java.io.IOException The disk is full, most likely.
     */
    public suspend fun save(file: File) {
        val (now, cut) = now()
        val system = system
        val next = if (cut == null) {
            prompt(system, now.turns.drop(now.dropped), "", null)
        } else {
            prompt(system, cut.base.drop(now.dropped), cut.turn.question, cut.turn)
        }
        val cutThinks = cut?.takeIf { it.turn === now.turns.lastOrNull() }?.thinks // no file has it while it thinks
        engine.save(file, next, config.asAsked(cut)) { model ->
            ConversationHeader(model.fingerprint, model.backend.kvBytesPerToken, system, now, keepThinking, whenFull, cutThinks)
        }
    }

    private fun place(turns: List<Turn>, turn: Int): Int {
        require(turn in -turns.size until turns.size) { "turn $turn found; the conversation has ${turns.size} turns" }
        return if (turn < 0) turn + turns.size else turn
    }

    private fun now(): Pair<ConversationText, Cut?> = synchronized(lock) { Pair(said, cut) }

    /** The conversation's own config, which thinks or not as the answer was asked for that was cut. */
    private fun GenerationConfig.asAsked(cut: Cut?): GenerationConfig = if (cut == null || cut.thinks == thinks) this else copy {
        thinking = cut.thinks
        thinkingBudget = thinkingBudget.takeIf { it != 0 }
    }

    /** The last answer, and the turns before it. */
    private fun begun(turns: List<Turn>, cut: Cut?): Pair<List<Turn>, Turn> =
        cut?.run { Pair(base, turn) } ?: Pair(turns.take(place(turns, -1)), turns.last())

    /**
     * The flow of an answer after the turns [base], or of the rest of one that has [begun].
     *
     * @param before All turns when it was asked for.
     */
    private fun ask(
        before: List<Turn>,
        base: List<Turn>,
        question: String,
        config: GenerationConfig?,
        begun: Turn? = null,
    ): Flow<GenerationEvent> {
        val system = system
        val asked = config ?: this.config
        require(asked.callableTools.isEmpty()) { "a conversation's turns hold no tool calls; give generate messages and tools" }
        return flow {
            checkUnchanged(before)
            val (prompt, tokens, left) = fitted(system, base, question, asked, begun)
            val answer = Answer(before, base, left, begun ?: Turn(question, "", ""), asked.thinks)
            val drawn = begin(before)
            val seeded = if (config?.seed == null) asked.copy { seed = drawn } else asked
            try {
                if (left > minOf(dropped, base.size)) {
                    val thinks = asked.thinks && begun?.answer.isNullOrEmpty()
                    val channel = if (thinks) Channel.THINKING else Channel.ANSWER
                    emit(GenerationEvent.Token("", channel, null, Notice.TURNS_DROPPED))
                }
                if (whenFull == WhenFull.STOP && tokens >= engine.contextLength) {
                    val stats = GenerationStats(tokens, 0, 0, 0, 0, 0.0, 0.0, 0.0)
                    emit(GenerationEvent.Finished(FinishReason.LENGTH, stats, Notice.CONTEXT_FULL))
                    return@flow
                }
                engine.generate(prompt, seeded).collect { event ->
                    answer.add(event)
                    try {
                        emit(event)
                    } catch (error: Throwable) { // who collects wants no more
                        answer.keep()
                        throw error
                    }
                }
            } catch (error: CancellationException) {
                answer.keep()
                throw error
            }
        }
    }

    /** The prompt, its tokens, and how many of the oldest turns it leaves out. */
    private suspend fun fitted(
        system: String,
        base: List<Turn>,
        question: String,
        config: GenerationConfig,
        begun: Turn?,
    ): Triple<Prompt, Int, Int> {
        var left = minOf(dropped, base.size)
        var prompt = prompt(system, base.drop(left), question, begun)
        var tokens = engine.counted(prompt, config)
        val limit = engine.contextLength
        if (whenFull == WhenFull.DROP && tokens + config.mostTokens(limit / 4) > limit) {
            // Half of the context is free then: whenever its beginning changes, all of a prompt is computed anew.
            while (left < base.size && tokens > limit / 2) {
                left++
                prompt = prompt(system, base.drop(left), question, begun)
                tokens = engine.counted(prompt, config)
            }
        }
        return Triple(prompt, tokens, left)
    }

    private fun prompt(system: String, turns: List<Turn>, question: String, begun: Turn?): Prompt {
        val messages = messages(system, turns, keepThinking) + Message(Role.USER, question)
        return if (begun == null) Prompt.Chat(messages) else Prompt.Continued(messages, begun.thinking, begun.answer)
    }

    private fun messages(system: String, turns: List<Turn>, keepsThinking: Boolean): List<Message> = buildList {
        add(Message(Role.SYSTEM, system))
        for ((question, thinking, answer) in turns) {
            val thought = if (keepsThinking && thinking.isNotEmpty()) ChatTemplate.thought(thinking) else ""
            add(Message(Role.USER, question))
            add(Message(Role.ASSISTANT, thought + answer))
        }
    }

    private fun checkUnchanged(before: List<Turn>) {
        if (turns !== before) {
            throw MimoException.WrongState("the conversation was changed after this question was put; ask it again")
        }
    }

    /** Counts an answer, and gives its seed. */
    private fun begin(before: List<Turn>): Long = synchronized(lock) {
        checkUnchanged(before)
        said.run { seed + draws }.also { said = said.copy(draws = said.draws + 1) }
    }

    /** An answer under way: what it says becomes a turn once. */
    private inner class Answer(
        val before: List<Turn>,
        val base: List<Turn>,
        val left: Int,
        val begun: Turn,
        val thinks: Boolean,
    ) {
        private val thinking = StringBuilder(begun.thinking)
        private val answer = StringBuilder(begun.answer)

        fun add(event: GenerationEvent) {
            when (event) {
                is GenerationEvent.Token -> (if (event.channel == Channel.THINKING) thinking else answer).append(event.text)
                is GenerationEvent.Finished -> keep(isWhole = event.reason == FinishReason.STOP)
            }
        }

        /** Makes a turn of what was asked and answered; without an answer only [resume] knows of it. */
        fun keep(isWhole: Boolean = false) {
            synchronized(lock) {
                if (turns !== before) return
                val turn = Turn(begun.question, "$thinking", "$answer")
                if (turn.answer.isNotBlank()) said = said.copy(turns = base + turn, dropped = left)
                if (turn.answer.isNotBlank() && isWhole) cut = null
                else if (turn.answer.isNotBlank() || turn.thinking.isNotEmpty()) cut = Cut(base, turn, thinks)
            }
        }
    }
}

/**
 * An answer that was cut.
 *
 * @property base The turns before its own, of which no other has it yet when it still thought.
 * @property turn What it was asked, and what it said.
 * @property thinks Whether it was asked for with thinking.
 */
internal data class Cut(val base: List<Turn>, val turn: Turn, val thinks: Boolean)

/** What of a conversation changes by its turns. */
internal data class ConversationText(val turns: List<Turn>, val dropped: Int, val seed: Long, val draws: Long)
