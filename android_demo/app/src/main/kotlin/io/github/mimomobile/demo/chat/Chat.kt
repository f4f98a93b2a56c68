package io.github.mimomobile.demo.chat

import io.github.mimomobile.demo.Problem
import io.github.mimomobile.runtime.GenerationStats
import io.github.mimomobile.runtime.Turn
import org.json.JSONArray
import org.json.JSONObject

/** Where an answer stands. */
enum class AnswerState {
    STREAMING,
    DONE,

    /** The tokens were used up. */
    LENGTH,

    /** The context was used up, so that nothing more can come. */
    FULL,

    /** By the user. */
    STOPPED,

    /** The app ended while it came. */
    INTERRUPTED,
    FAILED,
}

data class Answer(
    val thinking: String = "",
    val text: String = "",
    val thinkingTokens: Int = 0,
    val tokens: Int = 0,
    val state: AnswerState = AnswerState.STREAMING,
    val stats: GenerationStats? = null,
    val problem: Problem? = null,
) {
    /** Whether the thinking is still going on. */
    val thinks: Boolean get() = state == AnswerState.STREAMING && thinkingTokens > 0 && text.isEmpty()

    /** Whether it was cut, and can go on where it was. */
    val isCut: Boolean
        get() = state in setOf(AnswerState.LENGTH, AnswerState.STOPPED, AnswerState.INTERRUPTED) && hasBegun

    /** Whether some of it is there already. */
    val hasBegun: Boolean get() = thinking.isNotEmpty() || text.isNotEmpty()
}

/** A question and its answer, or what came instead of one. */
data class Exchange(val question: String, val answer: Answer) {
    val turn: Turn get() = Turn(question, answer.thinking, answer.text)
}

/** What the model is told of them: a question without an answer is no turn. */
val List<Exchange>.turns: List<Turn> get() = filter { it.answer.text.isNotBlank() }.map { it.turn }

/** A conversation as the screen shows it and the history keeps it. The library's Conversation makes prompts of it: see [Talk]. */
data class Chat(val id: String, val updatedAt: Long, val exchanges: List<Exchange> = emptyList()) {
    val title: String get() = exchanges.firstOrNull()?.question?.lineSequence()?.first()?.take(MAX_TITLE).orEmpty()

    fun withAnswer(answer: Answer, now: Long) =
        copy(updatedAt = now, exchanges = exchanges.dropLast(1) + exchanges.last().copy(answer = answer))

    fun toJson(): JSONObject = JSONObject()
        .put("id", id)
        .put("updated_at", updatedAt)
        .put("exchanges", JSONArray(exchanges.map { exchangeToJson(it) }))

    companion object {
        private const val MAX_TITLE = 80

        /** @throws org.json.JSONException It is no conversation. */
        fun fromJson(data: JSONObject): Chat {
            val list = data.getJSONArray("exchanges")
            val exchanges = (0 until list.length()).map { exchangeFromJson(list.getJSONObject(it)) }
            return Chat(data.getString("id"), data.getLong("updated_at"), exchanges)
        }
    }
}

private fun exchangeToJson(exchange: Exchange): JSONObject {
    val answer = exchange.answer
    val json = JSONObject()
        .put("question", exchange.question)
        .put("thinking", answer.thinking)
        .put("answer", answer.text)
        .put("thinking_tokens", answer.thinkingTokens)
        .put("tokens", answer.tokens)
        .put("state", answer.state.name)
    answer.problem?.let { json.put("problem", JSONObject().put("kind", it.kind.name).put("detail", it.detail)) }
    answer.stats?.let { json.put("stats", statsToJson(it)) }
    return json
}

private fun exchangeFromJson(data: JSONObject): Exchange {
    val state = AnswerState.entries.first { it.name == data.getString("state") }
    val answer = Answer(
        thinking = data.getString("thinking"),
        text = data.getString("answer"),
        thinkingTokens = data.getInt("thinking_tokens"),
        tokens = data.getInt("tokens"),
        state = state,
        stats = data.optJSONObject("stats")?.let(::statsFromJson),
        problem = data.optJSONObject("problem")?.let { problem ->
            Problem(Problem.Kind.entries.first { it.name == problem.getString("kind") }, problem.getString("detail"))
        },
    )
    return Exchange(data.getString("question"), answer)
}

fun statsToJson(stats: GenerationStats): JSONObject = JSONObject()
    .put("prompt_tokens", stats.promptTokens)
    .put("cached_tokens", stats.cachedTokens)
    .put("generated_tokens", stats.generatedTokens)
    .put("drafted_tokens", stats.draftedTokens)
    .put("accepted_tokens", stats.acceptedTokens)
    .put("prefill_tps", finite(stats.prefillTps))
    .put("decode_tps", finite(stats.decodeTps))
    .put("time_to_first_token_s", finite(stats.timeToFirstTokenS))
    .put("rested_s", finite(stats.restedS))

private fun statsFromJson(data: JSONObject) = GenerationStats(
    promptTokens = data.getInt("prompt_tokens"),
    cachedTokens = data.getInt("cached_tokens"),
    generatedTokens = data.getInt("generated_tokens"),
    draftedTokens = data.getInt("drafted_tokens"),
    acceptedTokens = data.getInt("accepted_tokens"),
    prefillTps = data.getDouble("prefill_tps"),
    decodeTps = data.getDouble("decode_tps"),
    timeToFirstTokenS = data.getDouble("time_to_first_token_s"),
    restedS = data.getDouble("rested_s"),
)

/** JSON has no infinity. */
private fun finite(value: Double): Double = if (value.isFinite()) value else 0.0
