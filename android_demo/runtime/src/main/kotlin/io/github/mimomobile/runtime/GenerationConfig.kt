package io.github.mimomobile.runtime

import kotlin.math.abs

/** Who says a [Message]. */
public enum class Role { SYSTEM, USER, ASSISTANT, TOOL }

/**
 * One turn of a conversation.
 *
 * @property role Who says it; [Role.TOOL] tells what a call came to.
 * @property content What is said.
 * @property toolCalls The tools that the assistant called.
 */
public data class Message(val role: Role, val content: String, val toolCalls: List<ToolCall> = emptyList()) {
    init {
        require(toolCalls.isEmpty() || role == Role.ASSISTANT) { "tool calls of $role: the assistant alone calls tools" }
    }
}

/** What an answer is asked for. */
public sealed interface Prompt {
    /**
     * A conversation, rendered by MiMo's chat template. Without a system message an empty one is put first.
     *
     * Names of special tokens in a message are text: a message cannot end its turn or begin another.
     */
    public data class Chat(val messages: List<Message>) : Prompt {
        init {
            require(messages.isNotEmpty()) { "messages $messages: at least one is needed" }
        }
    }

    /**
     * A conversation whose last answer was cut, by [GenerationConfig.maxTokens] or because it was stopped or the app ended:
     * it goes on where it was cut. What the KV cache still holds of it is not computed again.
     *
     * @property messages The conversation without that answer.
     * @property thinking What the answer had thought so far.
     * @property answer What it had said so far; empty when it was cut while it thought, and thinks on.
     */
    public data class Continued(val messages: List<Message>, val thinking: String, val answer: String = "") : Prompt {
        init {
            require(messages.isNotEmpty()) { "messages $messages: at least one is needed" }
        }
    }

    /** A text as it stands; names of special tokens in it become these tokens. */
    public data class Text(val text: String) : Prompt
}

/**
 * How to generate, such as `GenerationConfig { temperature = 0.0; maxTokens = 300 }`. The defaults are what Xiaomi
 * recommends for MiMo-7B.
 *
 * @property temperature 0 is greedy.
 * @property topP Nucleus sampling; 1 is off.
 * @property topK 0 is off.
 * @property minP 0 is off.
 * @property seed The same seed gives the same text again on the same device, with the same model and options; drafts change
 *   it by rounding at most. Null draws one.
 * @property repetitionPenalty Logits of tokens that the prompt or the text holds are divided by this where they are above
 *   0, and multiplied below, as in transformers; 1 is off.
 * @property logitBias What is added to the logits of single tokens, by their ids, from -100 to 100, as in OpenAI's API.
 * @property maxTokens Thinking and answer together; null, the default, is what the context leaves.
 * @property stop Generation ends before any of these texts, in thinking too.
 * @property thinking False closes the thinking block before it begins.
 * @property thinkingBudget Tokens after which thinking is closed, so that the answer follows. It is closed earlier where
 *   less than a quarter of the tokens, or 1024, would be left to the answer; without a budget that holds where [maxTokens]
 *   is null, too.
 * @property loopGuard Whether the thinking is closed when it repeats itself without an end.
 * @property speculate False does without drafts, which changes the speed, and the text by rounding at most.
 * @property structure What the answer must be, such as JSON of a schema. The thinking before it is free; a [Prompt.Text] is
 *   followed by the answer at once.
 * @property tools Functions that the answer may call. Calls keep to their schemas, as far as a grammar can express
 *   them; with `"strict": true` in a tool, what no grammar can express is an error.
 * @property toolChoice Whether it calls any: `auto`, `none`, `required`, or the name of the tool that it must call.
 * @property parallelToolCalls Whether it may make several calls; where [toolChoice] names a tool, it makes one.
 * @property ignoreEnd For benchmarks: the model's end of its turn is a token like others, so that exactly [maxTokens]
 *   are generated where the context has room for them.
 */
public class GenerationConfig private constructor(from: Builder) {
    public val temperature: Double = from.temperature
    public val topP: Double = from.topP
    public val topK: Int = from.topK
    public val minP: Double = from.minP
    public val repetitionPenalty: Double = from.repetitionPenalty
    public val logitBias: Map<Int, Double> = from.logitBias
    public val seed: Long? = from.seed
    public val maxTokens: Int? = from.maxTokens
    public val stop: List<String> = from.stop
    public val thinking: Boolean = from.thinking
    public val thinkingBudget: Int? = from.thinkingBudget
    public val loopGuard: Boolean = from.loopGuard
    public val speculate: Boolean = from.speculate
    public val structure: Structure? = from.structure
    public val tools: List<Tool> = from.tools
    public val toolChoice: String = from.toolChoice
    public val parallelToolCalls: Boolean = from.parallelToolCalls
    public val ignoreEnd: Boolean = from.ignoreEnd

    init {
        require(temperature >= 0 && temperature.isFinite()) { "temperature $temperature is out of range" }
        require(topP > 0 && topP <= 1) { "topP $topP is out of range" }
        require(topK >= 0) { "topK $topK is out of range" }
        require(minP in 0.0..1.0) { "minP $minP is out of range" }
        require(repetitionPenalty in 1 / MOST_PENALTY..MOST_PENALTY) {
            "repetitionPenalty $repetitionPenalty is out of range"
        }
        require(logitBias.all { (token, bias) -> token >= 0 && abs(bias) <= MOST_BIAS }) {
            "logitBias $logitBias is out of range"
        }
        require(maxTokens == null || maxTokens >= 1) { "maxTokens $maxTokens is out of range" }
        require(stop.none { it.isEmpty() }) { "stop $stop has an empty text" }
        require(thinkingBudget == null || thinkingBudget >= 0) { "thinkingBudget $thinkingBudget is out of range" }
        require(tools.size <= Tool.MOST_TOOLS) { "tools: ${tools.size} found, at most ${Tool.MOST_TOOLS} expected" }
        val twice = tools.groupBy { it.name }.entries.firstOrNull { it.value.size > 1 }?.key
        require(twice == null) { "tools: two are called '$twice'; give each a name of its own" }
        require(toolChoice in Tool.CHOICES || tools.any { it.name == toolChoice }) {
            "toolChoice '${toolChoice.take(80)}' is neither ${Tool.CHOICES.joinToString()} nor the name of a tool"
        }
        require(toolChoice != "required" || tools.isNotEmpty()) { "toolChoice is required, and there are no tools; give some" }
        require(callableTools.isEmpty() || structure == null) {
            "structure and tools both say what the answer must be; give one of them"
        }
        require(!ignoreEnd || !isRestricted) { "ignoreEnd: an answer with a structure or tools must be able to end" }
    }

    /** The tools that the answer may call. */
    internal val callableTools: List<Tool>
        get() = when (toolChoice) {
            "none" -> emptyList()
            "auto", "required" -> tools
            else -> tools.filter { it.name == toolChoice }
        }

    /** Whether something says what the answer must be, tools considered. */
    internal val isRestricted: Boolean get() = structure != null || callableTools.isNotEmpty()

    internal val thinks: Boolean get() = thinking && thinkingBudget != 0

    /** How many tokens thinking and answer may have where the context leaves [room]. */
    internal fun mostTokens(room: Int): Int = minOf(room, maxTokens ?: room)

    /** After how many tokens the thinking is closed where the context leaves [room]; null when never. */
    internal fun mostThinking(room: Int): Int? {
        if (thinkingBudget == null && maxTokens != null) return null
        val most = mostTokens(room)
        val left = most - minOf(most / 4, MOST_ANSWER)
        return minOf(thinkingBudget ?: left, left)
    }

    /** The same with some changes. */
    public fun copy(change: Builder.() -> Unit): GenerationConfig = GenerationConfig(Builder(this).apply(change))

    private val values: List<Any?>
        get() = listOf(
            temperature, topP, topK, minP, repetitionPenalty, logitBias, seed, maxTokens, stop, thinking,
            thinkingBudget, loopGuard, speculate, structure, tools, toolChoice, parallelToolCalls, ignoreEnd,
        )

    override fun equals(other: Any?): Boolean = other is GenerationConfig && values == other.values

    override fun hashCode(): Int = values.hashCode()

    override fun toString(): String = "GenerationConfig$values"

    /** What a [GenerationConfig] is made of, to be changed; each as there. */
    public class Builder internal constructor(from: GenerationConfig? = null) {
        public var temperature: Double = from?.temperature ?: 0.6
        public var topP: Double = from?.topP ?: 0.95
        public var topK: Int = from?.topK ?: 0
        public var minP: Double = from?.minP ?: 0.0
        public var repetitionPenalty: Double = from?.repetitionPenalty ?: 1.0
        public var logitBias: Map<Int, Double> = from?.logitBias ?: emptyMap()
        public var seed: Long? = from?.seed
        public var maxTokens: Int? = from?.maxTokens
        public var stop: List<String> = from?.stop ?: emptyList()
        public var thinking: Boolean = from?.thinking ?: true
        public var thinkingBudget: Int? = from?.thinkingBudget
        public var loopGuard: Boolean = from?.loopGuard ?: true
        public var speculate: Boolean = from?.speculate ?: true
        public var structure: Structure? = from?.structure
        public var tools: List<Tool> = from?.tools ?: emptyList()
        public var toolChoice: String = from?.toolChoice ?: "auto"
        public var parallelToolCalls: Boolean = from?.parallelToolCalls ?: true
        public var ignoreEnd: Boolean = from?.ignoreEnd ?: false
    }

    public companion object {
        /** A config of the defaults with some changes. */
        public operator fun invoke(change: Builder.() -> Unit = {}): GenerationConfig =
            GenerationConfig(Builder().apply(change))

        /** Thinking leaves a quarter of the tokens to the answer, and so many at most. */
        private const val MOST_ANSWER = 1024

        /** A repetition penalty beyond this, or below its inverse, has no more effect and might overflow. */
        private const val MOST_PENALTY = 100.0

        /** OpenAI's limit; beyond it a token comes always or never. */
        private const val MOST_BIAS = 100.0
    }
}

/** What a piece of generated text belongs to. */
public enum class Channel { THINKING, ANSWER }

/** Why a generation ended. */
public enum class FinishReason {
    /** The model ended its turn, or a stop string came. */
    STOP,

    /** [GenerationConfig.maxTokens] or the context was used up. */
    LENGTH,

    /** [MimoEngine.stop] was called. */
    CANCELLED,
}

/** What a flow tells beside its text. */
public enum class Notice {
    /** The thinking is closed because it repeats itself. */
    LOOP_CLOSED,

    /** The context is full and holds no further token: [Prompt.Continued] has no room either. */
    CONTEXT_FULL,

    /** The prompt leaves out more of the oldest turns than the one before: [WhenFull.DROP]. */
    TURNS_DROPPED,
}

/** One step of a generation. */
public sealed interface GenerationEvent {
    /**
     * New text.
     *
     * @property text Whole characters, possibly none yet.
     * @property channel Thinking or answer.
     * @property tokenId The token; null where held-back text comes without one.
     * @property notice What happened with this token, if anything did.
     * @property toolCall A call that is complete with this event; its text is not among the answer's.
     */
    public data class Token(
        val text: String,
        val channel: Channel,
        val tokenId: Int?,
        val notice: Notice? = null,
        val toolCall: ToolCall? = null,
    ) : GenerationEvent

    /** The end; always the last event of a flow that was not cancelled. */
    public data class Finished(
        val reason: FinishReason,
        val stats: GenerationStats,
        val notice: Notice? = null,
    ) : GenerationEvent
}

/**
 * What a generation took.
 *
 * @property promptTokens Of the whole prompt.
 * @property cachedTokens Those of it that were in the KV cache from the turn before.
 * @property generatedTokens Thinking, answer and forced tokens.
 * @property draftedTokens Drafts that were verified.
 * @property acceptedTokens Those of them that were right.
 * @property prefillTps Prompt tokens computed per second.
 * @property decodeTps Tokens after the first per second, rests included.
 * @property timeToFirstTokenS Seconds from the start to the first token.
 * @property restedS Seconds of rest because of heat.
 */
public data class GenerationStats(
    val promptTokens: Int,
    val cachedTokens: Int,
    val generatedTokens: Int,
    val draftedTokens: Int,
    val acceptedTokens: Int,
    val prefillTps: Double,
    val decodeTps: Double,
    val timeToFirstTokenS: Double,
    val restedS: Double = 0.0,
)
