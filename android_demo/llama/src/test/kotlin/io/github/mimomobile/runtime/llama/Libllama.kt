package io.github.mimomobile.runtime.llama

import com.sun.jna.NativeLibrary
import io.github.mimomobile.runtime.EngineConfig
import io.github.mimomobile.runtime.LoadedModel
import io.github.mimomobile.runtime.files.ModelFolder
import io.github.mimomobile.runtime.nano
import java.io.File

/** llama.cpp of this computer: the folder that `mimo.llama` names. */
internal object Libllama {
    val folder: File = File(checkNotNull(System.getProperty("mimo.llama")) { "-Dmimo.llama=FOLDER is needed" })

    val api: LlamaApi by lazy {
        use()
        LlamaLibrary.api
    }

    val log: LlamaLog get() = LlamaLibrary.log

    /** Lets llama.cpp be found there. */
    fun use() = NativeLibrary.addSearchPath("llama", folder.path)
}

/** MiMo-nano in the config's recipe. */
internal fun loadNano(config: EngineConfig): LoadedModel {
    Libllama.use()
    return GgufFormat().load(ModelFolder.read(nano, config.recipe, setOf(GgufFormat.NAME)), config) { _, _ -> }
}
