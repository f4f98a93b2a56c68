package io.github.mimomobile.runtime

import io.github.mimomobile.runtime.decode.Cooling
import io.github.mimomobile.runtime.decode.Decoder
import io.github.mimomobile.runtime.decode.Generation
import io.github.mimomobile.runtime.onnx.LoadedModel
import io.github.mimomobile.runtime.onnx.ModelLoader
import io.github.mimomobile.runtime.text.ChatTemplate
import io.github.mimomobile.runtime.text.ThinkingSplitter
import java.io.File
import java.util.SplittableRandom
import java.util.concurrent.Executors
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.CoroutineStart
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.Job
import kotlinx.coroutines.asCoroutineDispatcher
import kotlinx.coroutines.awaitCancellation
import kotlinx.coroutines.channels.Channel as Queue
import kotlinx.coroutines.ensureActive
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.asStateFlow
import kotlinx.coroutines.flow.buffer
import kotlinx.coroutines.flow.channelFlow
import kotlinx.coroutines.flow.emitAll
import kotlinx.coroutines.flow.flow
import kotlinx.coroutines.flow.flowOn
import kotlinx.coroutines.flow.getAndUpdate
import kotlinx.coroutines.flow.update
import kotlinx.coroutines.launch
import kotlinx.coroutines.withContext

/** [MimoEngine] by ONNX Runtime. */
internal class OnnxEngine : MimoEngine {
    private val executor = Executors.newSingleThreadExecutor { Thread(it, "mimo-engine").apply { isDaemon = true } }
    private val dispatcher = executor.asCoroutineDispatcher()
    private val current = MutableStateFlow<EngineState>(EngineState.Empty)

    @Volatile
    private var loaded: Loaded? = null

    @Volatile
    private var running: Job? = null

    override val state: StateFlow<EngineState> = current.asStateFlow()

    override suspend fun load(folder: File, config: EngineConfig) {
        claim(EngineState.Loading(0, 0))
        try {
            withContext(dispatcher) {
                unload()
                val model = ModelLoader(folder, config).load { done, total ->
                    ensureActive()
                    checkOpen()
                    become(EngineState.Loading(done, total))
                }
                val cooling = Cooling(config.heat, ::showHeat)
                loaded = Loaded(model, Decoder(model.backend, model.name, config.speculation, cooling))
            }
        } catch (error: MimoException) {
            become(EngineState.Failed(error))
            throw error
        } finally {
            val info = loaded?.model?.info
            if (current.value is EngineState.Loading) become(info?.let(EngineState::Ready) ?: EngineState.Empty)
        }
    }

    override fun generate(prompt: Prompt, config: GenerationConfig): Flow<GenerationEvent> = flow {
        checkOpen() // a closed dispatcher would cancel the caller
        emitAll(events(prompt, config))
    }

    private fun events(prompt: Prompt, config: GenerationConfig): Flow<GenerationEvent> = channelFlow {
        val (model, decoder) = opened()
        val ids = encode(model, prompt, config)
        val thinks = prompt is Prompt.Text || config.thinks
        val splitter = ThinkingSplitter(if (thinks) ThinkingSplitter.State.START else ThinkingSplitter.State.ANSWER)
        val random = config.seed?.let(::SplittableRandom) ?: SplittableRandom()
        claim(EngineState.Generating(model.info))
        running = coroutineContext[Job]
        decoder.renew()
        // Ends a run inside ONNX Runtime, which knows nothing of coroutines.
        val watch = launch(Dispatchers.Unconfined, CoroutineStart.UNDISPATCHED) {
            try {
                awaitCancellation()
            } finally {
                decoder.cancel()
            }
        }
        try {
            checkOpen() // who closed it since it was claimed found nothing to cancel
            decoder.run(ids, Generation(model.tokenizer, config, splitter, random::nextDouble)) { send(it) }
        } finally {
            watch.cancel()
            running = null
            become(EngineState.Ready(model.info))
        }
    }.buffer(Queue.RENDEZVOUS).flowOn(dispatcher)

    override fun stop() {
        if (current.value is EngineState.Generating) loaded?.decoder?.cancel()
    }

    override fun countTokens(prompt: Prompt): Int = encode(opened().model, prompt, GenerationConfig()).size

    override fun close() {
        if (current.getAndUpdate { EngineState.Closed } == EngineState.Closed) return
        running?.cancel()
        // Queued behind what the thread is doing.
        CoroutineScope(dispatcher).launch { unload() }.invokeOnCompletion { dispatcher.close() }
    }

    private fun unload() {
        loaded?.model?.close()
        loaded = null
    }

    /** A closed engine stays closed. */
    private fun become(state: EngineState) = current.update { if (it == EngineState.Closed) it else state }

    private fun showHeat(heat: Heat) =
        current.update { if (it is EngineState.Generating) it.copy(heat = heat) else it }

    private fun encode(model: LoadedModel, prompt: Prompt, config: GenerationConfig): IntArray = when (prompt) {
        is Prompt.Text -> model.tokenizer.encode(prompt.text)
        is Prompt.Chat -> {
            if (!model.info.hasChatTemplate) {
                throw MimoException.ModelLoad("${model.info.name}: no ChatML template; give Prompt.Text instead")
            }
            model.tokenizer.encode(ChatTemplate.render(prompt.messages, config.thinks))
        }
    }

    private fun opened(): Loaded {
        checkOpen()
        return loaded ?: throw MimoException.WrongState("no model is loaded; call load first")
    }

    private fun checkOpen() {
        if (current.value == EngineState.Closed) throw MimoException.WrongState("the engine is closed")
    }

    /** Begins something that only one caller at a time may do; a second one gets an error, not a queue. */
    private fun claim(state: EngineState) {
        while (true) {
            checkOpen()
            val now = current.value
            if (now is EngineState.Loading || now is EngineState.Generating) {
                throw MimoException.WrongState("the engine is busy; stop it first, or make a second one")
            }
            if (now != EngineState.Closed && current.compareAndSet(now, state)) return
        }
    }

    private data class Loaded(val model: LoadedModel, val decoder: Decoder)
}
