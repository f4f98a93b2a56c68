package io.github.mimomobile.demo.chat

import android.util.Log
import io.github.mimomobile.demo.ProblemException
import io.github.mimomobile.demo.SettingsStore
import io.github.mimomobile.demo.models.LoadState
import io.github.mimomobile.demo.models.ModelHolder
import io.github.mimomobile.demo.problemOf
import io.github.mimomobile.runtime.FinishReason
import io.github.mimomobile.runtime.GenerationEvent
import io.github.mimomobile.runtime.MimoEngine
import io.github.mimomobile.runtime.MimoException
import java.io.IOException
import java.io.OutputStream
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.CoroutineStart
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.Job
import kotlinx.coroutines.NonCancellable
import kotlinx.coroutines.cancelAndJoin
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.asStateFlow
import kotlinx.coroutines.flow.distinctUntilChanged
import kotlinx.coroutines.flow.map
import kotlinx.coroutines.flow.update
import kotlinx.coroutines.launch
import kotlinx.coroutines.withContext

/**
 * The open conversation and its answer under way; state holder of the chat screen. Survives activities.
 *
 * @param occupied Whether something else uses the engine.
 */
class ChatHolder(
    private val scope: CoroutineScope,
    private val engine: MimoEngine,
    private val store: ChatStore,
    private val settings: SettingsStore,
    private val models: ModelHolder,
    occupied: Flow<Boolean>,
) {
    // Read at once, so that a screen that comes back finds its text where it was.
    private val current = MutableStateFlow(ChatUiState(settings.conversation?.let(store::read) ?: store.create()))
    private val disk = Dispatchers.IO.limitedParallelism(1)
    private val talk = Talk(engine, store.states)
    private var answering: Job? = null

    /** The engine's work after an answer. */
    private var saving: Job? = null

    @Volatile
    private var stopping = false

    val state: StateFlow<ChatUiState> = current.asStateFlow()

    init {
        scope.launch { store.summaries.collect { list -> current.update { it.copy(history = list) } } }
        scope.launch { withContext(disk) { store.refresh() } }
        scope.launch {
            models.state.map { it.load to it.crash?.problem }.distinctUntilChanged().collect { (load, crash) ->
                current.update { it.copy(load = load, crash = crash) }
                if (load is LoadState.Ready) count()
            }
        }
        scope.launch {
            occupied.collect { busy ->
                if (busy) talk.forget()
                current.update { it.copy(busy = busy) }
            }
        }
        scope.launch { settings.values.map { it.systemPrompt }.distinctUntilChanged().collect { count() } }
    }

    /** Asks, in place of the question that is being edited; nothing happens while an answer comes or no model is loaded. */
    fun send(question: String) {
        if (question.isBlank()) return
        val index = state.value.editing ?: Int.MAX_VALUE
        begin { it.copy(exchanges = it.exchanges.take(index) + Exchange(question.trim(), Answer())) }
    }

    /** Begins to edit a question; null ends that, and nothing was changed. */
    fun edit(index: Int?) = current.update { if (it.generating) it else it.copy(editing = index) }

    /** Asks the last question again, in place of its answer. */
    fun regenerate() {
        if (state.value.conversation.exchanges.isEmpty()) return
        begin { it.withAnswer(Answer(), it.updatedAt) }
    }

    /** Has the last answer go on where it was cut. */
    fun goOn() {
        if (state.value.conversation.exchanges.lastOrNull()?.answer?.isCut != true) return
        begin { it.withAnswer(it.exchanges.last().answer.copy(state = AnswerState.STREAMING), it.updatedAt) }
    }

    /** Ends the answer within a token; what came of it stays. */
    fun stop() {
        stopping = true // for an engine that has not begun, and does not hear
        engine.stop()
    }

    /** Opens a saved conversation. */
    fun open(id: String) {
        if (id != state.value.conversation.id) switch { withContext(disk) { store.read(id) } }
    }

    /** Opens an empty conversation. */
    fun new() = switch { store.create() }

    fun delete(id: String) {
        scope.launch {
            if (id == state.value.conversation.id) {
                quiet()
                show(store.create())
            }
            saving?.join() // or its file would come back
            withContext(disk) { store.delete(id) }
        }
    }

    /**
     * Writes the open conversation as Markdown.
     *
     * @throws IOException The file cannot be written.
     */
    suspend fun export(open: () -> OutputStream?) = withContext(disk) {
        val text = markdownOf(state.value.conversation, (state.value.load as? LoadState.Ready)?.info?.name)
        val output = open() ?: throw IOException("the provider gives no file")
        output.use { it.write(text.encodeToByteArray()) }
    }

    fun toggleThinking(index: Int) = current.update {
        it.copy(unfolded = if (index in it.unfolded) it.unfolded - index else it.unfolded + index)
    }

    private fun switch(to: suspend () -> Chat?) {
        scope.launch {
            val next = to() ?: return@launch
            quiet()
            show(next)
        }
    }

    /** Ends the answer under way, and one that is asked for meanwhile; nothing is between this and what comes next. */
    private suspend fun quiet() {
        while (answering?.isCompleted == false) answering?.cancelAndJoin()
    }

    private suspend fun show(conversation: Chat) {
        settings.conversation = conversation.id
        current.update { it.copy(conversation = conversation, unfolded = emptySet(), usedTokens = null, editing = null) }
        count()
    }

    private fun begin(change: (Chat) -> Chat) {
        scope.launch {
            if (!state.value.canSend) return@launch
            current.update {
                val begun = change(it.conversation).copy(updatedAt = System.currentTimeMillis())
                it.copy(conversation = begun, generating = true, liveTps = null, editing = null)
            }
            settings.conversation = state.value.conversation.id
            stopping = false
            // Begins at once: one that is cancelled before it began would never say that it ended.
            answering = scope.launch(start = CoroutineStart.UNDISPATCHED) { answer() }
        }
    }

    private suspend fun answer() {
        val begun = state.value.conversation
        val draft = Draft(begun.exchanges.last().answer, ::publish)
        var journal: Journal? = null
        var load: LoadState.Ready? = null
        try {
            saving?.join()
            // What is on disk else keeps its own journal: it may be all that there is of an answer that was interrupted.
            val tokens = if (save()) withContext(disk) { store.begin(begun) } else null
            journal = tokens
            val ready = state.value.load.let { models.ready(checkNotNull(it.path), it.mode) }
            val events = talk.ask(begun, settings.values.value, ready)
            load = ready
            draft.promptTokens = talk.promptTokens
            events.collect { event ->
                when (event) {
                    is GenerationEvent.Token -> {
                        if (stopping) engine.stop()
                        tokens?.add(event)
                        if (draft.add(event)) withContext(disk) { tokens?.sync() }
                    }
                    is GenerationEvent.Finished -> draft.finish(event)
                }
            }
        } catch (error: CancellationException) {
            draft.end(AnswerState.STOPPED)
            throw error
        } catch (error: MimoException) {
            // A model's file that is read for its sum at the first answer ends so.
            val stopped = stopping && error is MimoException.WrongState
            if (stopped) draft.end(AnswerState.STOPPED) else draft.fail(problemOf(error))
        } catch (error: ProblemException) {
            draft.fail(error.problem)
        } finally {
            withContext(NonCancellable) {
                val answered = state.value.conversation
                load?.let { if (draft.answer().run { hasBegun && state != AnswerState.FAILED }) saving = scope.launch { talk.save(answered, it) } }
                current.update { it.copy(generating = false, liveTps = null, ended = it.ended + 1) }
                if (save()) withContext(disk) { journal?.delete() } else journal?.close()
                count()
            }
        }
    }

    private fun publish(draft: Draft) = current.update {
        it.copy(
            conversation = it.conversation.withAnswer(draft.answer(), System.currentTimeMillis()),
            usedTokens = draft.promptTokens?.plus(draft.tokens),
            liveTps = draft.liveTps(),
        )
    }

    /** Whether the text is on disk. */
    private suspend fun save(): Boolean = try {
        withContext(disk) { store.save(state.value.conversation) }
        true
    } catch (error: IOException) {
        Log.e("mimo", "the conversation was not saved", error)
        false
    }

    private suspend fun count() {
        if (state.value.load !is LoadState.Ready || state.value.generating) return
        val conversation = state.value.conversation
        try {
            val used = withContext(Dispatchers.Default) { talk.countTokens(conversation, settings.values.value.systemPrompt) }
            current.update { if (it.conversation == conversation) it.copy(usedTokens = used) else it }
        } catch (_: MimoException) {
            current.update { it.copy(usedTokens = null) } // another model is being loaded, or it has no template
        }
    }
}

internal fun FinishReason.answerState() = when (this) {
    FinishReason.STOP -> AnswerState.DONE
    FinishReason.LENGTH -> AnswerState.LENGTH
    FinishReason.CANCELLED -> AnswerState.STOPPED
}
