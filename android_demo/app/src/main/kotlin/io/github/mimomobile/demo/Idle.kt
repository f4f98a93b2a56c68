package io.github.mimomobile.demo

import io.github.mimomobile.runtime.EngineState
import io.github.mimomobile.runtime.MimoEngine
import io.github.mimomobile.runtime.MimoException
import kotlinx.coroutines.flow.first

/**
 * Has the engine do [work] as soon as it does nothing else. An answer that ended just now is saved by it at any moment,
 * and it does one thing at a time: what it refuses for that is asked of it again.
 *
 * @param needsModel Whether the work cannot be done without a model, so that it is not asked again where none is loaded.
 * @throws MimoException As [work] says; [MimoException.WrongState] when nothing is loaded, or the engine was closed.
 */
suspend fun <T> MimoEngine.onceIdle(needsModel: Boolean = true, work: suspend () -> T): T {
    while (true) {
        val idle = state.first { it !is EngineState.Generating && it !is EngineState.Loading }
        try {
            return work()
        } catch (error: MimoException.WrongState) {
            if (idle is EngineState.Closed || needsModel && idle !is EngineState.Ready) throw error
        }
    }
}
