package io.github.mimomobile.demo.test

import android.app.Instrumentation
import android.content.Context
import io.github.mimomobile.demo.MimoApp
import io.github.mimomobile.demo.Settings
import io.github.mimomobile.demo.models.LoadState
import io.github.mimomobile.demo.models.ModelFolders
import io.github.mimomobile.runtime.GenerationConfig
import java.io.File

/** The app with the bundled model and greedy settings, between [begin] and [end]. */
internal class Setup(private val instrumentation: Instrumentation, val app: MimoApp) {
    val nano: File = ModelFolders(app).nano

    private val settings = app.settings.values.value
    private val model = app.settings.modelPath
    private val conversation = app.settings.conversation
    private val asked = mutableSetOf<String>()

    fun begin() {
        // Before the app starts: afterwards both would load a model once more.
        app.settings.modelPath = nano.path
        app.settings.set(Settings(generation = GenerationConfig { temperature = 0.0 }))
        app.start()
        instrumentation.await("a model loaded", seconds = 120) {
            app.models.state.value.load.takeIf { it is LoadState.Ready || it is LoadState.Failed }
        }
        load(nano)
    }

    /** Loads a model, unless it is loaded, and waits until a question can be asked. */
    fun load(folder: File) {
        if ((app.models.state.value.load as? LoadState.Ready)?.path != folder.path) app.models.load(folder.path)
        instrumentation.await("$folder loaded") {
            when (val load = app.models.state.value.load) {
                is LoadState.Failed -> if (load.path == folder.path) throw AssertionError("${load.problem}") else null
                is LoadState.Ready -> load.takeIf { it.path == folder.path && app.chat.state.value.canSend }
                else -> null
            }
        }
    }

    /** An empty conversation in place of the one before, to be deleted in the end. */
    fun newConversation() {
        val before = app.chat.state.value.conversation.id
        app.chat.new()
        asked += instrumentation.await("an empty conversation") {
            app.chat.state.value.conversation.id.takeIf { it != before }
        }
    }

    /** Puts back what was the user's; the app ends with the tests, and finds it at its next start. */
    fun end() {
        app.settings.set(settings)
        app.chat.stop()
        asked.forEach(app.chat::delete)
        instrumentation.await("the conversations deleted") {
            app.chat.state.value.takeIf { state -> state.history.none { it.id in asked } }
        }
        app.settings.conversation = conversation
        app.settings.modelPath = model
        // What is written in the background would be lost with the process.
        app.getSharedPreferences("settings", Context.MODE_PRIVATE).edit().commit()
    }
}
