package io.github.mimomobile.demo.chat

import io.github.mimomobile.demo.Problem
import io.github.mimomobile.demo.models.LoadState

/**
 * The chat screen.
 *
 * @property crash That the load of another model ended the app before.
 * @property busy Something else uses the engine.
 * @property usedTokens Of the context, by the conversation; null while that is unknown.
 * @property unfolded Exchanges whose thinking is shown.
 * @property editing Which question is being changed; what follows it will be replaced.
 * @property liveTps Tokens a second of the answer under way.
 * @property ended Counts answers that ended, so that a screen reader is told once.
 */
data class ChatUiState(
    val conversation: Chat,
    val history: List<Summary> = emptyList(),
    val load: LoadState = LoadState.None,
    val crash: Problem? = null,
    val generating: Boolean = false,
    val busy: Boolean = false,
    val usedTokens: Int? = null,
    val unfolded: Set<Int> = emptySet(),
    val editing: Int? = null,
    val liveTps: Double? = null,
    val ended: Int = 0,
) {
    val contextTokens: Int? get() = (load as? LoadState.Ready)?.info?.contextLength

    val canSend: Boolean get() = load.canCompute && !generating && !busy
}
