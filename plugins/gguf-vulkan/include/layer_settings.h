// Included before every C++ file of llama.cpp's: what its Vulkan code names of VK_EXT_layer_settings, a validation aid, for
// Vulkan's headers from before 1.3.272, which have it not. Newer headers are left alone.
#if defined(__cplusplus)
#include <vulkan/vulkan_core.h>
#if !defined(VK_EXT_layer_settings)
#include <cstdint>
#include <vector>

namespace vk {
enum class LayerSettingTypeEXT : int32_t { eBool32 = 0 };

struct LayerSettingEXT {
    const char * pLayerName;
    const char * pSettingName;
    LayerSettingTypeEXT type;
    uint32_t valueCount;
    const void * pValues;
};

struct LayerSettingsCreateInfoEXT {
    VkStructureType sType = static_cast<VkStructureType>(1000496000);
    const void * pNext = nullptr;
    uint32_t settingCount;
    const LayerSettingEXT * pSettings;

    explicit LayerSettingsCreateInfoEXT(const std::vector<LayerSettingEXT> & settings)
        : settingCount(static_cast<uint32_t>(settings.size())), pSettings(settings.data()) {}
};
}
#endif
#endif
