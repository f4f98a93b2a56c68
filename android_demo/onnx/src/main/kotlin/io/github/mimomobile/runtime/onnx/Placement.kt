package io.github.mimomobile.runtime.onnx

import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.files.JsonException
import io.github.mimomobile.runtime.files.JsonReader
import java.io.File

/**
 * How many nodes each execution provider computes, by ONNX Runtime's names, from the profile of a run.
 *
 * Java has no other way to see it, and a session is made even when the provider asked for takes nothing.
 */
internal fun readPlacement(profile: File): Map<String, Int> = try {
    val nodes = HashMap<String, MutableSet<String>>()
    profile.inputStream().use { input ->
        val json = JsonReader(input)
        json.readArray {
            val event = json.readValue() as? Map<*, *>
            val provider = (event?.get("args") as? Map<*, *>)?.get("provider") as? String
            if (event?.get("cat") == "Node" && provider != null) {
                nodes.getOrPut(provider) { HashSet() } += event["name"].toString()
            }
        }
    }
    nodes.mapValues { it.value.size }.toSortedMap()
} catch (error: JsonException) {
    throw MimoException.Inference("$profile: no profile of ONNX Runtime's", error)
}
